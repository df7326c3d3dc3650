"""What the process that imports unsloth does: load the model through it, and make trainers. Needs a CUDA device.

unsloth changes transformers, peft and torch for the whole process, as it is imported and again as it loads a model, so nothing
here may run where a base model is used otherwise; and it wants to be imported before transformers.

What has to be watched, in 2026.10.7:
- Sequences longer than `max_seq_length` are cut without an error, and one above the model's own stretches its positions.
- A tokenizer whose padding is its end gets a new token, and the embedding new rows: it is given the tokenizer of the grid
  vocabulary, whose padding is a token of its own. Only ids reach the model, so any will do.
- Recomputed layers are reentrant: their gradients reach parameters alone (`train.weights`).
- Base weights in fp32 take the slow path of peft; dropout takes the slow path for the projections it is asked for.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solver.config import ModelSettings, TrainSettings
from solver.model.support import read_config
from solver.train.base import Trainer
from solver.train.subprocess_trainer import TrainerSpec

if TYPE_CHECKING:
    from solver.model.offloaded_weights import OffloadedWeights


def model_arguments(folder: Path, model: ModelSettings, train: TrainSettings, tokenizer: Path) -> dict[str, Any]:
    """Of FastLanguageModel.from_pretrained."""
    import torch

    return {
        "model_name": str(folder),
        "max_seq_length": model.context,
        "dtype": getattr(torch, model.dtype),
        "load_in_4bit": model.quantization == "nf4",
        "load_in_8bit": False,
        "full_finetuning": False,
        "fix_tokenizer": False,
        "trust_remote_code": False,
        "use_gradient_checkpointing": checkpointing(train),
        "use_exact_model_name": True,  # others are looked up, and replaced by checkpoints of unsloth's own
        "offload_embedding": False,
        "fast_inference": False,
        "local_files_only": True,
        "tokenizer_name": str(tokenizer),
    }


def adapter_arguments(train: TrainSettings, targets: tuple[str, ...]) -> dict[str, Any]:
    """Of FastLanguageModel.get_peft_model, after the model."""
    return {
        "r": train.rank,
        "target_modules": list(targets),
        "lora_alpha": train.alpha,
        "lora_dropout": train.dropout,
        "bias": "none",
        "use_gradient_checkpointing": checkpointing(train),
        "random_state": 0,  # of the first matrices, which every fit replaces
        "use_rslora": train.rslora,
        "modules_to_save": None,
    }


def checkpointing(train: TrainSettings) -> str | bool:
    """unsloth's own kind recomputes layers and keeps their inputs in host memory."""
    return "unsloth" if train.checkpointing else False


def load(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    """A Maker: the model loaded once; its trainers share it and one set of matrices, which every fit begins anew."""
    with _one_at_a_time(spec.scratch):
        from unsloth import FastLanguageModel  # isort: skip  # before anything imports transformers

    import torch

    from solver.model.build import save_tokenizer
    from solver.model.load import Base, load_codec
    from solver.model.lora import LoraShape, target_names
    from solver.model.offloaded_weights import OffloadedWeights
    from solver.train.external_lora import ExternalLoraFitTarget, ExternalLoraTrainer
    from solver.train.loop import Loop

    train, settings = spec.train, spec.model
    if spec.device_share < 1:
        torch.cuda.set_per_process_memory_fraction(spec.device_share)
    with tempfile.TemporaryDirectory() as tokenizer:
        save_tokenizer(Path(tokenizer))
        model, _ = FastLanguageModel.from_pretrained(**model_arguments(spec.folder, settings, train, Path(tokenizer)))
    codec = load_codec(spec.folder, spec.model.format)
    model = FastLanguageModel.get_peft_model(model, **adapter_arguments(train, target_names(model)))
    model = FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing(train))
    inner = model.get_base_model()
    _check(inner, spec)
    dtype = getattr(torch, settings.dtype)
    device = next(inner.parameters()).device

    base = Base(inner, codec, device, dtype, spec.folder, settings.context, settings.quantization != "none")
    target = ExternalLoraFitTarget(base, LoraShape(train.rank, train.alpha, train.rslora, train.dropout), reentrant=True)

    last: list[_ReleasingTrainer] = []  # that was made

    def make(wanted: TrainSettings) -> Trainer:
        while last:  # it may rest, and with it what they share
            last.pop().wake()
        plain = wanted.model_copy(update={"checkpointing": False})  # it is unsloth's to do
        loop = Loop(base, target, plain, spec.scratch, autocast=None if dtype == torch.float32 else dtype)
        trainer = ExternalLoraTrainer(loop)
        last.append(_ReleasingTrainer(trainer, OffloadedWeights(inner, device, trainer)))
        return last[-1]

    return make


class _ReleasingTrainer:
    """Gives the device's memory back after every call, and the base's, too, when it rests: other processes use it in turn.

    What unsloth keeps for itself, such as buffers for recomputed layers, stays until the process ends.
    """

    def __init__(self, trainer: Trainer, weights: OffloadedWeights) -> None:
        self._trainer, self._weights = trainer, weights

    def rest(self) -> None:
        """Hold nothing of the model on the device until the next fit."""
        self._weights.rest()

    def wake(self) -> None:
        """Be as before the rest; a fit does that by itself."""
        self._weights.wake()

    def fit(self, jobs: Any, deadline: Any) -> Iterator[Any]:
        """As the trainer."""
        import torch

        self._weights.wake()
        try:
            yield from self._trainer.fit(jobs, deadline)
        finally:
            torch.cuda.empty_cache()


def _check(model: Any, spec: TrainerSpec) -> None:
    """Raises RuntimeError if unsloth made another model than was asked for."""
    limit = getattr(model.get_decoder(), "max_seq_length", None)
    if limit is not None and limit < spec.model.context:
        raise RuntimeError(f"unsloth would cut sequences at {limit} tokens, the context is {spec.model.context}")
    tokens = model.get_input_embeddings().num_embeddings
    expected = read_config(spec.folder)["vocab_size"]
    if tokens != expected:
        raise RuntimeError(f"unsloth changed the vocabulary from {expected} tokens to {tokens}")


@contextmanager
def _one_at_a_time(scratch: Path) -> Iterator[None]:
    """Wait for the other workers of the run: the import patches, probes and compiles, and writes to caches that all share."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "unsloth.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
