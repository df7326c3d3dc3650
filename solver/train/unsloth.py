"""LoRA fits by unsloth, on a CUDA device: fused kernels for the projections, and recomputed layers whose inputs leave the device.

unsloth works in a process of its own, see `train.unsloth_process`. The base it trains beside is the one that adapters are
served on: the same folder, in the same dtype, in NF4 exactly if that one is. So the device holds the base twice, if the worker
loads one of its own, and once otherwise. While the trainer rests, the process has its base in host memory.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.folder import CELL_DECODER
from solver.model.load import Base
from solver.model.offloaded_weights import OffloadedWeights
from solver.train.base import TrainerState
from solver.train.peft import PeftTrainer
from solver.train.schedule import peak_lr
from solver.train.subprocess_trainer import ProcessLost, StartError, SubprocessTrainer, TrainerSpec
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # model types that unsloth has kernels for and this trainer knows
_MAKER = "solver.train.unsloth_process:load"


def refusal(device: torch.device, model_type: str) -> str:
    """Why unsloth cannot train such a model on such a device, in one line; empty if nothing speaks against it.

    Looks and does not import: whether it starts is only known when it has.
    """
    if model_type == CELL_DECODER:
        return "it does not know cell positions: it trains models of Hugging Face by path; lora trains the embedded ones"
    if device.type != "cuda":
        return "it needs a CUDA device"
    if find_spec("unsloth") is None or find_spec("unsloth_zoo") is None:
        return 'it is not installed: pip install "solver[gpu]"'
    if model_type not in FAMILIES:
        return f"it has no kernels for models of the kind {model_type}"
    return ""


def version() -> str:
    """Of the installed package."""
    try:
        return metadata.version("unsloth")
    except metadata.PackageNotFoundError:
        return ""


def environment(device: torch.device, scratch: Path, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Of the process, before its first import: one device, no network, no statistics, compiled code in a folder of its own."""
    listed = [name.strip() for name in outer.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    index = device.index or 0
    return {
        "CUDA_VISIBLE_DEVICES": listed[index] if index < len(listed) else str(index),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": tempfile.mkdtemp(prefix="unsloth-", dir=scratch),
    }


class UnslothTrainer:
    """A LoRA adapter per job. If its process is lost, the jobs it had fail, and it is started again for the next ones, once."""

    def __init__(
        self, base: Base, settings: TrainSettings, scratch: Path, state: TrainerState | None = None, device_share: float = 1.0
    ) -> None:
        """Start the process, or join the one of `state`. `device_share` of the device's memory is what it may take.

        Raises InputError if it cannot run here, StartError if it does not.
        """
        if why := refusal(base.device, base.model.config.model_type):
            raise InputError(f"train.trainer=unsloth: {why}; solver doctor says what there is")
        # by the weights of the base alone: those of the process count the adapter's, too
        self._settings = settings.model_copy(update={"lr": peak_lr(settings.lr, base.parameters)})
        self._base, self._scratch, self._device_share = base, scratch, device_share
        self._state = state or TrainerState()
        self._instead: PeftTrainer | None = None
        self._weights: OffloadedWeights | None = None
        self._restarted = False
        self._process = self._start()

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order, as each completes."""
        if not self._process.alive:
            self._recover()
        if self._instead is not None:
            yield from self._instead.fit(jobs, deadline)
            return
        if self._base.device.type == "cuda":
            torch.cuda.empty_cache()  # the other process is to have it
        pending = {job.adapter_id: job for job in jobs}
        self._process.settings = self._settings
        try:
            for fit in self._process.fit(jobs, deadline):
                del pending[fit.adapter_id]
                yield fit
        except ProcessLost as error:
            nan = float("nan")
            for job in pending.values():
                yield Fit(job.adapter_id, "failed", f"the process of unsloth: {error}", job.start, 0, 0, 0.0, nan, nan)

    def rest(self) -> None:
        """Give the device's memory up until the next fit; a process that does not is ended, and started again for it."""
        if self._weights is not None:
            self._weights.rest()
        elif self._process.alive:
            try:
                self._process.rest()
            except ProcessLost as error:
                log.warning("trainer: the process of unsloth gave no memory back and was ended: %s", error)

    def wake(self) -> None:
        """The process does that by itself."""
        if self._weights is not None:
            self._weights.wake()

    def _start(self) -> SubprocessTrainer:
        process = self._state.unsloth
        if process is None or not process.alive:
            base = self._base
            model = ModelSettings(
                dtype=str(base.dtype).removeprefix("torch."),
                quantization="nf4" if base.quantized else "none",
                format=base.format,
                context=base.context,
                device="cuda:0",
            )
            spec = TrainerSpec(_MAKER, base.path.absolute(), model, self._settings, self._scratch, self._device_share)
            self._scratch.mkdir(parents=True, exist_ok=True)
            process = SubprocessTrainer(spec, environment(base.device, self._scratch))
            self._state.unsloth = process
        return process

    def _recover(self) -> None:
        """Start the process again; the second time, or if it does not start, go on with the PEFT trainer."""
        why = "its process was lost twice"
        if not self._restarted and self._instead is None:
            self._restarted = True
            try:
                self._process = self._start()
                log.warning("trainer: the process of unsloth was lost, and has been started again")
                return
            except StartError as error:
                why = f"it did not start again: {error}"
        if self._instead is None:
            log.warning("trainer: peft in place of unsloth: %s", why)
            base = self._base.with_weights()
            self._instead = PeftTrainer(base, self._settings, self._scratch)
            if base is not self._base:  # nobody else computes with these weights
                self._weights = OffloadedWeights(base.model, base.device, self._instead)
