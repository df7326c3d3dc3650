"""How a worker's trainer and engine share one device: how much memory each gets, and whether they take turns.

An engine that computes with the worker's own base model shares its memory with the trainer, and there is nothing to plan. An
engine with weights of its own (vllm) stays on the device beside the trainer if both fit. If not, the one that works has the
device, and the other one rests: it keeps its weights in host memory or drops them.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from solver.config import Settings
from solver.host import free_memory
from solver.infer.base import Engine
from solver.infer.registry import OWN_WEIGHTS, choose_engine
from solver.infer.vllm.engine import VllmEngine, adapter_bytes, limits
from solver.messages import Turns
from solver.model.device import CUDA_CONTEXT, Demand, DevicePlan, ModelShape, plan_device
from solver.model.load import Base, load_base
from solver.model.offloaded_weights import Movable, OffloadedWeights, Rests
from solver.train.base import Trainer
from solver.train.lora import LoraTrainer, max_stack
from solver.train.registry import SUBPROCESS, choose_trainer, fits_lora
from solver.worker.context import WorkerContext
from solver.worker.device_turns import DeviceTurns

log = logging.getLogger(__name__)

SAVED = 4  # bytes of an adapter's weight in its file, fp32
SLEEPERS_SHARE = 0.5  # of the host's free memory, for what an engine that rests keeps there


def needs_no_weights(model: Path | None, settings: Settings, cache: Path, context: WorkerContext | None = None) -> bool:
    """Whether this process needs no weights of the base: another process fits, and the engine loads its own."""
    if settings.infer.engine == "hf" or settings.train.trainer not in ("auto", *SUBPROCESS):
        return False
    if settings.train.trainer == "auto" and not torch.cuda.is_available():
        return False
    base = load_base(model, settings.model, weights=False, cache=cache)
    context = context or WorkerContext()
    trainer, _ = choose_trainer(base, settings.train, context.trainers)
    return trainer in SUBPROCESS and choose_engine(base, settings.infer, True, context.engines)[0] in OWN_WEIGHTS


@dataclass(eq=False)
class WorkerDevicePlan:
    """The plan of one worker. `plan` is None if trainer and engine need not divide the memory."""

    base: Base
    rank: int
    alternates: bool = False
    plan: DevicePlan | None = None
    sleeps: bool = False  # whether an engine that rests keeps its weights in host memory
    fit_fraction: float = 1.0  # of the device's memory, for fits in a process of their own
    _fits: Rests | None = None
    _device_turns: DeviceTurns | None = None

    @classmethod
    def of(cls, base: Base, settings: Settings, context: WorkerContext | None = None) -> Self:
        """Plan by the settings, and limit the device memory of this process. Logs a warning if the device is too small."""
        worker_plan = cls(base, settings.train.rank)
        context = context or WorkerContext()
        lora = fits_lora(settings.train)
        if choose_engine(base, settings.infer, lora, context.engines)[0] not in OWN_WEIGHTS:
            return worker_plan
        worker_plan.alternates = bool(settings.workers.alternate)
        if base.device.type != "cuda":
            return worker_plan
        apart = choose_trainer(base, settings.train, context.trainers)[0] in SUBPROCESS
        total = int(torch.cuda.get_device_properties(base.device).total_memory)
        plan = plan_device(
            total,
            settings.workers.per_device,
            demand_of(settings, base, apart),
            settings.workers.fit_share,
            settings.workers.alternate,
        )
        if not plan.cache:
            log.warning("device memory: too little for inference on %d tokens: %s", base.context, plan.describe())
        own = plan.infer + CUDA_CONTEXT if apart else plan.share
        torch.cuda.set_per_process_memory_fraction(min(1.0, own / total), base.device)
        worker_plan.plan, worker_plan.alternates = plan, plan.alternates
        worker_plan.fit_fraction = plan.fit_fraction if apart else 1.0
        # beside other workers vLLM cannot tell whether its memory was freed, and takes that for an error
        alone = settings.workers.per_device == 1
        worker_plan.sleeps = plan.alternates and alone and plan.weights + plan.adapters < SLEEPERS_SHARE * free_memory()
        return worker_plan

    def begin(self) -> None:
        """Call before a trainer is made: gives the device to training."""
        if self._device_turns is not None:
            self._device_turns.to_fits()

    def rest(self, trainer: Trainer) -> None:
        """Call before an engine is made beside `trainer`: if they take turns, the trainer leaves the device."""
        if not self.alternates:
            return
        if isinstance(trainer, Rests):
            self._fits = trainer
        else:
            base = self.base.with_weights()
            self._fits = OffloadedWeights(base.model, base.device, trainer if isinstance(trainer, Movable) else None)
        self._fits.rest()

    def device_turns(self, engine: Engine) -> DeviceTurns | None:
        """How trainer and `engine` take turns from now on; None if both stay on the device."""
        if self._fits is None:
            return None
        if not isinstance(engine, VllmEngine):  # vllm did not start, so nothing takes turns
            self._fits.wake()
            self.alternates, self._fits, self._device_turns = False, None, None
            return None
        engine.rest()
        if engine.asleep:  # start it once, so that the cost of waking it is known from the beginning
            engine.start(self.rank)
            engine.rest()
        self._device_turns = DeviceTurns(self._fits, engine)
        return self._device_turns

    def turns(self, trainer: Trainer, engine: Engine, scratch: Path) -> Turns | None:
        """What the choice of the chunk size depends on; None if neither trainer nor engine gains by several tasks."""
        fits = trainer.max_stack if isinstance(trainer, LoraTrainer) else 1
        handover, sequences = 0.0, 1
        if isinstance(engine, VllmEngine):
            handover = max(0.0, engine.handover_seconds) if self.alternates else 0.0
            sequences = limits(self.base, self.rank)[1] if self.base.device.type == "cuda" else 1
        elif fits == 1:
            return None
        return Turns(
            handover=handover,
            sequences=sequences,
            fits=fits,
            adapter_bytes=adapter_bytes(self.base, self.rank) // self.base.dtype.itemsize * SAVED,
            adapter_room=shutil.disk_usage(scratch).free,
        )


def demand_of(settings: Settings, base: Base, apart: bool) -> Demand:
    """What training, and an engine with weights of its own, ask of a device."""
    train = settings.train
    step_tokens, sequences, slots = limits(base, train.rank)
    shape = ModelShape.of(base.model.config.get_text_config())
    stack = 1 if apart else max_stack(train, base.device, train.rank * shape.weights_per_rank, base.parameters)
    return Demand(
        shape=shape,
        itemsize=base.dtype.itemsize,
        quantized=base.quantized,
        rank=train.rank,
        stack=stack,
        batch_tokens=min(train.batch_tokens, stack * train.batch_sequences * base.context),
        checkpointing=train.checkpointing,
        context=base.context,
        cache_tokens=settings.infer.batch_tokens,
        step_tokens=step_tokens,
        sequences=sequences,
        slots=slots,
        separate_process=apart,
    )
