"""Runs in the process that imports unsloth: loads the model by unsloth and makes trainers. Needs a CUDA device.

unsloth changes transformers, peft and torch for the whole process, when it is imported and again when it loads a model. So
nothing here may run in a process that uses a base model in another way. unsloth has to be imported before transformers.

Traps in unsloth 2026.10.7:
- It cuts sequences longer than `max_seq_length` without an error. A `max_seq_length` above the model's own scales positions.
- If a tokenizer has one token for padding and end, it adds a padding token and rows to the embedding. So it is given the
  tokenizer of the grid vocabulary, which has a padding token. Only ids reach the model, so any tokenizer will do.
- It recomputes layers in nested backward passes, whose gradients reach parameters only (`train.weights`).
- With base weights in fp32 it takes peft's slow path, and so it does for projections with dropout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solver.config import ModelSettings, TrainSettings
from solver.file_lock import exclusive_lock
from solver.model.support import read_config
from solver.train.base import Trainer
from solver.train.subprocess_trainer import TrainerSpec

if TYPE_CHECKING:
    from solver.model.offloaded_weights import OffloadedWeights


def model_arguments(folder: Path, model: ModelSettings, train: TrainSettings, tokenizer: Path) -> dict[str, Any]:
    """The arguments of FastLanguageModel.from_pretrained."""
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
        "use_exact_model_name": True,  # otherwise unsloth may replace the model by a checkpoint of its own
        "offload_embedding": False,
        "fast_inference": False,
        "local_files_only": True,
        "tokenizer_name": str(tokenizer),
    }


def adapter_arguments(train: TrainSettings, targets: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of FastLanguageModel.get_peft_model, except the model."""
    return {
        "r": train.rank,
        "target_modules": list(targets),
        "lora_alpha": train.alpha,
        "lora_dropout": train.dropout,
        "bias": "none",
        "use_gradient_checkpointing": checkpointing(train),
        "random_state": 0,  # for the first matrices, which every fit replaces
        "use_rslora": train.rslora,
        "modules_to_save": None,
    }


def checkpointing(train: TrainSettings) -> str | bool:
    """The argument `use_gradient_checkpointing`. "unsloth": recompute layers, and keep their inputs in host memory."""
    return "unsloth" if train.checkpointing else False


def load(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    """A Maker. It loads the model once. All trainers share it and one set of LoRA matrices, which every fit initialises."""
    # the import patches, probes and compiles, and writes to caches that all workers of a run share
    spec.scratch.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(spec.scratch / "unsloth.lock"):
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

    latest: _ReleasingTrainer | None = None

    def make(train_settings: TrainSettings) -> Trainer:
        nonlocal latest
        if latest is not None:
            latest.wake()  # if it rests, the weights and matrices that trainers share are in host memory
            latest = None
        loop_settings = train_settings.model_copy(update={"checkpointing": False})  # unsloth does it
        loop = Loop(base, target, loop_settings, spec.scratch, autocast=None if dtype == torch.float32 else dtype)
        trainer = ExternalLoraTrainer(loop)
        latest = _ReleasingTrainer(trainer, OffloadedWeights(inner, device, trainer))
        return latest

    return make


class _ReleasingTrainer:
    """Gives cached memory back to the device after every call, and moves the base to host memory while it rests.

    Other processes use the device in turn. What unsloth itself holds, such as buffers for recomputed layers, stays there.
    """

    def __init__(self, trainer: Trainer, weights: OffloadedWeights) -> None:
        self._trainer, self._weights = trainer, weights

    def rest(self) -> None:
        """Move the model and the matrices to host memory until the next fit."""
        self._weights.rest()

    def wake(self) -> None:
        """Move them back. A fit does that by itself."""
        self._weights.wake()

    def fit(self, jobs: Any, deadline: Any) -> Iterator[Any]:
        """Fit as the inner trainer does."""
        import torch

        self._weights.wake()
        try:
            yield from self._trainer.fit(jobs, deadline)
        finally:
            torch.cuda.empty_cache()


def _check(model: Any, spec: TrainerSpec) -> None:
    """Raises RuntimeError if unsloth changed the model's context or vocabulary."""
    limit = getattr(model.get_decoder(), "max_seq_length", None)
    if limit is not None and limit < spec.model.context:
        raise RuntimeError(f"unsloth would cut sequences at {limit} tokens, the context is {spec.model.context}")
    tokens = model.get_input_embeddings().num_embeddings
    expected = read_config(spec.folder)["vocab_size"]
    if tokens != expected:
        raise RuntimeError(f"unsloth changed the vocabulary from {expected} tokens to {tokens}")
