"""A small base model for word problems, made from nothing in minutes: a tokenizer, a Qwen3 decoder, and endless problems to read.

`solver math pretrain --out base --minutes 3`
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from solver.codec import Codec
from solver.math.problems import MathProblem
from solver.math.tokens import MathTokenizer, new_tokenizer
from solver.math.word_problems import Difficulty, make_problems
from solver.pretrain.loop import LoopSettings, train
from solver.pretrain.optim import make_optimizers
from solver.pretrain.sampler import Batch, Drawn, batches_by_length
from solver.pretrain.target import Kind, Optimizers

BLOCK = 512  # problems that are sorted by length into batches
TOKENIZER_PROBLEMS = 2000  # that the tokenizer is made from
VALIDATION_PROBLEMS = 200
CONTEXT = 512  # tokens
SOURCE = "problems"  # the name of what is read, in the metrics of the training


@dataclass(frozen=True)
class BaseShape:
    """The size of the model."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4


@dataclass(frozen=True)
class BaseOptions:
    """How a base model is made."""

    minutes: float = 3.0
    steps: int | None = None  # optimizer steps at most, where the minutes allow more; None: no limit
    shape: BaseShape = BaseShape()
    difficulty: Difficulty = field(default_factory=Difficulty)
    batch_tokens: int = 2048
    lr: float = 3e-3
    seed: int = 0


def make_base(
    out: Path, options: BaseOptions, report: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Path:
    """Train a new model until the minutes are over, and give its folder, `out`/model. Raises InputError."""
    problems = itertools.islice(make_problems(options.seed, options.difficulty, "tokenizer"), TOKENIZER_PROBLEMS)
    tokenizer = new_tokenizer(f"{problem.question}\n{problem.completion()}" for problem in problems)
    math_tokenizer = MathTokenizer(tokenizer, "new tokenizer")
    target = _Target(_new_model(options.shape, tokenizer, options.seed), tokenizer, math_tokenizer.codec)
    source = ProblemBatches(math_tokenizer, options.difficulty, options.batch_tokens, options.seed)
    validation = list(itertools.islice(make_problems(options.seed, options.difficulty, "validation"), VALIDATION_PROBLEMS))
    settings = LoopSettings(options.minutes, options.lr, validate_minutes=1e9, checkpoint_minutes=1e9, steps=options.steps)
    train(
        target,
        source,
        batches(math_tokenizer, validation, options.batch_tokens),
        settings,
        out,
        None,
        options.seed,
        report,
        clock,
    )
    return out / "model"


class ProblemBatches:
    """Endless batches of problems, as `pretrain.loop.train` takes them. Block n holds the same ones every time."""

    sources = (SOURCE,)

    def __init__(self, tokenizer: MathTokenizer, difficulty: Difficulty, batch_tokens: int, seed: int) -> None:
        self._tokenizer, self._difficulty, self._batch_tokens, self._seed = tokenizer, difficulty, batch_tokens, seed

    def block(self, block: int) -> list[Batch]:
        """The batches of one block."""
        made = itertools.islice(make_problems(self._seed, self._difficulty, f"block {block} "), BLOCK)
        found = batches(self._tokenizer, list(made), self._batch_tokens, 1.0)
        Random(block).shuffle(found)
        return found

    def batches(self, block: int, batch: int) -> Iterator[tuple[int, int, Batch]]:
        """All batches from a position on, each with the position after it."""
        for number in itertools.count(block):
            made = self.block(number)
            for place in range(batch, len(made)):
                yield (number + 1, 0, made[place]) if place + 1 == len(made) else (number, place + 1, made[place])
            batch = 0


def batches(tokenizer: MathTokenizer, problems: Sequence[MathProblem], tokens: int, question_weight: float = 0.0) -> list[Batch]:
    """Problems of similar length as batches of at most `tokens` tokens, padding included."""
    sequences = (tokenizer.sequence(problem, question_weight=question_weight) for problem in problems)
    return batches_by_length([Drawn(SOURCE, sequence) for sequence in sequences], tokens, tokenizer.pad)


def _new_model(shape: BaseShape, tokenizer: Any, seed: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


class _Target:
    """All weights of the new model. A checkpoint is a model folder in fp32, with the tokenizer and the state of the training."""

    kind: Kind = "full"
    init = ""
    lr = BaseOptions.lr

    def __init__(self, model: Any, tokenizer: Any, codec: Codec) -> None:
        self.model, self._tokenizer, self.codec = model, tokenizer, codec

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight."""
        return dict(self.model.named_parameters())

    def optimizers(self, lr: float, weight_decay: float) -> Optimizers:
        """Muon for the matrices, AdamW for the rest."""
        return make_optimizers(self.model, lr, weight_decay)

    def weights(self) -> Mapping[str, Tensor]:
        """No tensors: `write` writes them in fp32."""
        return {}

    def write(self, folder: Path) -> None:
        """Write the model folder."""
        from safetensors.torch import save_file

        self.model.config.architectures = [type(self.model).__name__]
        self.model.config.save_pretrained(folder)
        weights = {name: value.detach().contiguous() for name, value in self.model.named_parameters()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        self._tokenizer.save_pretrained(folder)

    def finish(self, out: Path, report: Any) -> None:
        """Write the model folder `out`/model, without the state of the training."""
        folder = out / "model"
        folder.mkdir(exist_ok=True)
        self.write(folder)
        report(f"{folder}: the model")
