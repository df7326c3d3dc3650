"""The trainer `unsloth`: LoRA by the library unsloth on a CUDA device.

unsloth has fused kernels, and keeps the inputs of recomputed layers in host memory. It works in a process of its own, see
`train.unsloth_process`, and loads the base that adapters are served on: the same folder in the same dtype, and in NF4 if the
worker's base is. If the worker loads its base as well, the device holds the base twice. While the trainer rests, the process
keeps its base in host memory.
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

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # model types that unsloth has kernels for and this trainer supports
_MAKER = "solver.train.unsloth_process:load"


def refusal(device: torch.device, model_type: str) -> str:
    """Why unsloth cannot train a model of this type on this device, in one line; empty if no reason is known.

    It does not import unsloth, which may still fail to start.
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
    """The version of the installed package; empty if there is none."""
    try:
        return metadata.version("unsloth")
    except metadata.PackageNotFoundError:
        return ""


def environment(device: torch.device, scratch: Path, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables for the process: one device, no network, no statistics, compiled code in a new folder of its own."""
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
    """Fits one LoRA adapter after the other. If its process is lost, its jobs fail, and the process is started again, once.

    If it is lost a second time, or does not start again, the trainer `peft` takes over.
    """

    def __init__(
        self, base: Base, settings: TrainSettings, scratch: Path, state: TrainerState | None = None, device_share: float = 1.0
    ) -> None:
        """Start the process, or use the one in `state`. It may take `device_share` of the device's memory.

        Raises InputError if unsloth cannot work here, StartError if the process does not start.
        """
        if why := refusal(base.device, base.model.config.model_type):
            raise InputError(f"train.trainer=unsloth: {why}; solver doctor says what this machine offers")
        # set the rate here, by the number of the base's weights: the model in the process also counts those of the adapter
        self._settings = settings.model_copy(update={"lr": peak_lr(settings.lr, base.parameters)})
        self._base, self._scratch, self._device_share = base, scratch, device_share
        self._state = state or TrainerState()
        self._instead: PeftTrainer | None = None
        self._weights: OffloadedWeights | None = None
        self._restarted = False
        self._process = self._start()

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one fit for each job, in order, as soon as it is done."""
        if not self._process.alive:
            self._recover()
        if self._instead is not None:
            yield from self._instead.fit(jobs, deadline)
            return
        if self._base.device.type == "cuda":
            torch.cuda.empty_cache()  # the other process needs the memory
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
        """Give up the device's memory until the next fit. A process that fails to is ended, and the next fit starts it again."""
        if self._weights is not None:
            self._weights.rest()
        elif self._process.alive:
            try:
                self._process.rest()
            except ProcessLost as error:
                log.warning("trainer: the process of unsloth gave no memory back and was ended: %s", error)

    def wake(self) -> None:
        """Take the device's memory again. The process does that by itself at the next fit."""
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
        """Start the process again. The second time, or if it does not start, replace it by the PEFT trainer."""
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
            if base is not self._base:  # they were loaded for this trainer, so it has to move them when it rests
                self._weights = OffloadedWeights(base.model, base.device, self._instead)
