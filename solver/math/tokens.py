"""Questions and solutions as token ids of any tokenizer, and a small tokenizer for models that are made here.

A sequence is: begin (if the tokenizer has such a token), the question and a line break, the solution, end.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from solver.math.problems import MathProblem
from solver.model.text_tokenizer import TextTokenizer
from solver.types import TokenIds, TokenSequence

RESERVED = "<reserved>"  # a token of the tokenizers made here that no text has, for verifiers
VOCABULARY = 512  # tokens of a new tokenizer


class MathTokenizer(TextTokenizer):
    """Writes problems as token ids and reads solutions from them."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        """As `TextTokenizer`. Raises InputError if the tokenizer has no end token."""
        super().__init__(tokenizer, source)
        self._equals = self.encode("=")
        self.after_equals = lru_cache(maxsize=4096)(self._after_equals)

    def prompt(self, question: str) -> TokenIds:
        """The ids after which a solution follows."""
        return np.array([*self.begin, *self.encode(question + "\n")], dtype=np.int32)

    def completion(self, text: str) -> TokenIds:
        """The ids of a solution, end included."""
        return np.array([*self.encode(text), self.end], dtype=np.int32)

    def sequence(self, problem: MathProblem, steps: bool = True, question_weight: float = 0.0) -> TokenSequence:
        """A training sequence. The loss weights are 1 on the solution, end included, and `question_weight` on the question."""
        prompt, completion = self.prompt(problem.question), self.completion(problem.completion(steps))
        weights = np.ones(len(prompt) + len(completion), dtype=np.float32)
        weights[: len(prompt)] = question_weight
        weights[0] = 0.0
        return TokenSequence(np.concatenate([prompt, completion]), weights)

    def _after_equals(self, text: str) -> tuple[int, ...]:
        """The ids of `text` after an equals sign."""
        whole = self.encode("=" + text)
        cut = len(self._equals)
        return tuple(whole[cut:]) if whole[:cut] == self._equals else tuple(self.encode(text))


def new_tokenizer(texts: Iterable[str]) -> Any:
    """A tokenizer of transformers, made from `texts`: byte-level BPE of VOCABULARY tokens, in which every digit is a token.

    It writes every text. Common words of `texts` are one token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>", RESERVED],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
