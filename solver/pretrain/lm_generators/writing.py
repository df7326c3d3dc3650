"""Has a causal language model write generators: draws completions of the prompts, and takes descriptions and code from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.text_model import load_text_model
from solver.model.text_tokenizer import TextTokenizer
from solver.pretrain.lm_generators import prompts
from solver.pretrain.lm_generators.examples import Example, load_examples
from solver.pretrain.lm_generators.prompts import Way
from solver.pretrain.lm_generators.verdicts import Refused
from solver.types import NEVER, SampleRequest

SAMPLES = 4  # completions of a prompt


@dataclass(frozen=True)
class WritingOptions:
    """How completions are drawn."""

    ways: tuple[Way, ...] = prompts.WAYS  # the prompts ask in these ways in turn
    shots: int = 4  # examples in a prompt
    temperature: float = 0.8
    max_new_tokens: int = 768
    seed: int = 0


@dataclass(frozen=True)
class Written:
    """What one completion holds. `problem` says why there is no code."""

    way: Way
    shown: tuple[str, ...]  # names of the examples
    description: str = ""
    code: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _Prompt:
    id: str
    text: str
    samples: int
    ended: Callable[[str], bool]  # whether a completion has all that is read from it


@dataclass(frozen=True)
class _Question:
    """What the first prompt of a way asks for, and how its completions are read."""

    prompt: Callable[[Sequence[Example]], str]  # from the examples
    ended: Callable[[str], bool]  # as in _Prompt
    read: Callable[[str, bool], tuple[str, str]]  # from a completion, and whether it is finished, to description and code


_FIRST: Mapping[Way, _Question] = {
    "code": _Question(prompts.code_prompt, prompts.code_ended, lambda text, finished: ("", prompts.code_in(text, finished))),
    "joint": _Question(prompts.joint_prompt, prompts.joint_ended, prompts.description_and_code_in),
    "two-stage": _Question(
        prompts.description_prompt, prompts.description_ended, lambda text, _: (prompts.description_in(text), "")
    ),
}


class Writer:
    """Writes generators with a model. A completion depends on the options and the number of its prompt alone."""

    def __init__(self, folder: Path, model: ModelSettings, infer: InferSettings, options: WritingOptions) -> None:
        """Raises InputError if the model cannot be used, or cannot write programs."""
        self._all_examples = load_examples()
        self._model = load_text_model(folder, model, program_tokenizer)
        self._engine = self._model.engine(infer)
        self._options = options

    @property
    def on_gpu(self) -> bool:
        """Whether the model computes on a GPU."""
        return self._model.base.device.type == "cuda"

    def write(self, numbers: Sequence[int]) -> list[list[Written]]:
        """SAMPLES completions of each of the prompts with these numbers.

        Raises InputError if a prompt cannot be served, for example because it is longer than the context.
        """
        ways: dict[Way, list[int]] = {}
        for number in numbers:
            ways.setdefault(self._options.ways[number % len(self._options.ways)], []).append(number)
        written: dict[int, list[Written]] = {}
        for way, asked in ways.items():
            first = self._first_stage(way, asked)
            written |= self._second_stage(first) if way == "two-stage" else first
        return [written[number] for number in numbers]

    def _first_stage(self, way: Way, numbers: Sequence[int]) -> dict[int, list[Written]]:
        question = _FIRST[way]
        drawn = self._draw([_Prompt(f"{n}", question.prompt(self._examples(n)), SAMPLES, question.ended) for n in numbers])
        return {n: [_written(way, self._examples(n), question.read, *one) for one in drawn[f"{n}"]] for n in numbers}

    def _second_stage(self, described: Mapping[int, Sequence[Written]]) -> dict[int, list[Written]]:
        """The same with code for every description."""
        drawn = self._draw(
            [
                _Prompt(f"{n}/{place}", prompts.described_prompt(self._examples(n), one.description), 1, prompts.code_ended)
                for n, stage in described.items()
                for place, one in enumerate(stage)
                if not one.problem
            ]
        )

        def completed(n: int, place: int, one: Written) -> Written:
            if one.problem:
                return one
            coded = _written("two-stage", self._examples(n), _FIRST["code"].read, *drawn[f"{n}/{place}"][0])
            return replace(coded, description=one.description)

        return {n: [completed(n, place, one) for place, one in enumerate(stage)] for n, stage in described.items()}

    def _examples(self, number: int) -> list[Example]:
        """The examples of a prompt, in random order."""
        shots = min(self._options.shots, len(self._all_examples))
        return Random(f"{self._options.seed}/{number}").sample(self._all_examples, shots)

    def _draw(self, asked: Sequence[_Prompt]) -> dict[str, list[tuple[str, bool]]]:
        """For each prompt its completions, each with whether the model ended it."""
        tokenizer, options = self._model.tokenizer, self._options
        requests = [
            SampleRequest(
                prompt.id,
                np.array([*tokenizer.begin, *tokenizer.encode(prompt.text)], dtype=np.int32),
                None,
                prompt.samples,
                options.temperature,
                options.max_new_tokens,
                seed=_seed(options.seed, prompt.id, prompt.text),
                forcer=_enders(tokenizer, prompt.ended),
            )
            for prompt in asked
        ]
        drawn: dict[str, list[tuple[str, bool]]] = {}
        for result in self._engine.sample(requests, NEVER):
            if result.status == "failed":
                raise InputError(f"{self._model.base.path}: {result.error}; --shots has fewer examples shown")
            drawn[result.request] = [(tokenizer.text(one.ids), one.finished) for one in result.completions]
        return drawn


def program_tokenizer(tokenizer: Any, source: str) -> TextTokenizer:
    """A tokenizer of transformers as one that writes programs. `source` names it in errors.

    Raises InputError if it cannot write what prompts hold, like the tokenizer of a model whose vocabulary is that of grids.
    """
    text = prompts.joint_prompt(load_examples())
    try:
        ids = tokenizer.encode(text, add_special_tokens=False)
        kept = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    except Exception:  # tokenizers raises a plain Exception for a text that a small vocabulary has no token for
        kept = ""
    if kept.strip() != text.strip():
        raise InputError(f"{source}: its vocabulary cannot write programs; give a model that writes text")
    return TextTokenizer(tokenizer, source)


def _written(
    way: Way, examples: Sequence[Example], read: Callable[[str, bool], tuple[str, str]], completion: str, finished: bool
) -> Written:
    shown = tuple(example.name for example in examples)
    try:
        return Written(way, shown, *read(completion, finished))
    except Refused as refused:
        return Written(way, shown, problem=refused.detail)


class _Ender:
    """Ends a completion that has all that is read from it. A forcer of tokens, see `solver.types.TokenForcer`."""

    def __init__(self, tokenizer: TextTokenizer, ended: Callable[[str], bool]) -> None:
        self._tokenizer, self._ended = tokenizer, ended
        self._text = ""

    def follow(self, tokens: Sequence[int]) -> int | None:
        """Take the tokens that were appended; the end token, or None."""
        self._text += "".join(self._tokenizer.piece(int(token)) for token in tokens)
        return self._tokenizer.end if self._ended(self._text) else None


def _enders(tokenizer: TextTokenizer, ended: Callable[[str], bool]) -> Callable[[], _Ender]:
    return lambda: _Ender(tokenizer, ended)


def _seed(seed: int, prompt: str, text: str) -> int:
    """A seed of its own for every prompt, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{prompt}/{text}".encode()).digest()[:8], "little")
