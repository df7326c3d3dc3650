"""The step loop of all trainers. Fits advance together, one optimizer step for all, until each has a reason to stop.

The deadline is checked before every step and before every micro-batch of a step.
"""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from solver.config import TrainSettings
from solver.errors import InputError
from solver.model import threads
from solver.model.fused_training import BEST_TOKENS, FusedTrainingPass, States, decoder_states
from solver.model.head import OutputHead
from solver.model.load import Base
from solver.model.memory import is_out_of_memory
from solver.model.residual_dropout import add_residual_dropout
from solver.train.batches import BatchRow, collate, micro_batches, optimizer_batches, padded_tokens, value_places
from solver.train.loss import ValueLoss, slot_losses
from solver.train.schedule import peak_lr, rate, share_done
from solver.train.weights import AdamW, FlatWeights, clip_gradients
from solver.types import AdapterRef, Deadline, Fit, FitJob, Status

log = logging.getLogger(__name__)

OnStep = Callable[[int, int, float], None]  # gets steps done, steps of the fit, and the loss before the latest step

_FIRST_LOSS_SCALE = 2.0**14  # the loss is multiplied by it in fp16, where gradients below 6e-8 become 0; less after an overflow


class FitTarget(Protocol):
    """What a fit trains: a model with `slots` sets of trained weights, one for each job of the fit."""

    kind: Literal["lora", "full"]  # of the adapters that it makes
    slots: int
    reentrant: bool  # whether the model recomputes layers in nested backward passes, see FlatWeights
    model: Any

    def parameters(self) -> list[nn.Parameter]:
        """The trained weights, each (slots, ...), or of any shape if there is one slot."""
        ...

    def begin(self, slot: int, seed: int, start: Path | None) -> None:
        """Set the slot's weights to those in the adapter folder `start`, or initialise them from `seed`."""
        ...

    def use(self, rows: Tensor) -> None:
        """Say which slot each row of the next batch belongs to: (rows,) int64."""
        ...

    def save(self, slot: int, folder: Path) -> None:
        """Write the slot's weights to the existing folder `folder`."""
        ...


class _Stopped(Exception):
    """A step was not finished. The message is the reason: "deadline" or "oom"."""


@dataclass
class _Run:
    """The state of one slot during a fit."""

    slot: int
    job: FitJob
    batches: Iterator[tuple[int, ...]]
    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # one a step; Fit reports the first and the last
    reason: str = ""  # why it stopped, as in Fit; empty while it runs
    previous_tokens: int = 0  # `tokens` before the last step

    @property
    def active(self) -> bool:
        return not self.reason


class Loop:
    """Fits jobs on a target. From fit to fit it remembers the seconds that a token takes, and the batch size that fits memory."""

    def __init__(
        self,
        base: Base,
        target: FitTarget,
        settings: TrainSettings,
        scratch: Path,
        autocast: torch.dtype | None,
        *,
        value_loss: ValueLoss | None = None,
        residual_dropout: float = 0.0,
        on_step: OnStep = lambda _step, _steps, _loss: None,
    ) -> None:
        """`value_loss` is that of the value targets; None: a job with any is refused. `residual_dropout` is the probability (0 to
        below 1) of dropping what an attention or feed-forward block adds to a state. `on_step` is called after every step.
        """
        self._base = base
        self._value_loss = value_loss
        self._on_step = on_step
        self._target = target
        self._settings = settings
        self._lr = peak_lr(settings.lr, base.parameters)
        self._scratch = scratch
        self._autocast = autocast
        self._weights = FlatWeights(target.parameters(), target.slots, target.reentrant)
        self._batch_tokens = settings.batch_tokens
        self._pace: deque[float] = deque(maxlen=8)  # seconds for each token, padding included, in the latest steps
        self._first_scale = _FIRST_LOSS_SCALE if torch.float16 in (base.dtype, autocast) else 1.0
        self._scale = self._first_scale
        self._states: States = decoder_states(target.model)
        fused = not settings.checkpointing and target.slots == 1 and autocast is None and FusedTrainingPass.fits(target.model)
        self._head = OutputHead.of(target.model)
        if settings.checkpointing:
            target.model.gradient_checkpointing_enable({"use_reentrant": False})
        if fused:
            self._states = FusedTrainingPass(target.model, residual_dropout)
            self._batch_tokens = min(self._batch_tokens, BEST_TOKENS)
        elif residual_dropout:
            add_residual_dropout(target.model, residual_dropout)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> list[Fit]:
        """Fit at most `slots` jobs together. A bad job fails alone. The global random generators are left as they were."""
        started = deadline.clock()
        self._scale = self._first_scale  # an overflow lowers it, which must not cost the next fit its small gradients
        refused: dict[str, str] = {}
        runs: list[_Run] = []
        devices = [self._base.device] if self._base.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(jobs[0].seed)  # dropout
            for job in jobs:
                try:
                    self._check(job)
                    self._target.begin(len(runs), job.seed, job.start.path if job.start else None)
                except (InputError, ValueError) as error:
                    refused[job.adapter_id] = str(error)
                    continue
                lengths = [len(sequence) for sequence in job.sequences]
                batches = optimizer_batches(lengths, job.steps, self._settings.batch_sequences, job.seed)
                runs.append(_Run(len(runs), job, batches))
            self._target.model.train()
            try:
                self._advance(runs, deadline, started)
            except Exception as error:  # whatever a model or a device raises fails these jobs, not the run
                log.exception("fit failed")
                for run in runs:
                    run.reason = run.reason or f"{type(error).__name__}: {error}".splitlines()[0]
            finally:
                self._target.model.eval()
        by_job = {run.job.adapter_id: run for run in runs}
        seconds = (deadline.clock() - started) / len(jobs)
        return [
            self._finish(by_job[job.adapter_id], seconds) if job.adapter_id in by_job else _refusal(job, refused[job.adapter_id])
            for job in jobs
        ]

    def move(self, device: torch.device) -> None:
        """Move what is trained to another device, between two fits. The base's weights stay where they are."""
        self._weights.move(device)

    def _check(self, job: FitJob) -> None:
        """Raises ValueError for a job that cannot be fitted."""
        if not job.sequences:
            raise ValueError("no training sequences")
        longest = max(map(len, job.sequences))
        if longest > self._base.context:
            raise ValueError(f"a sequence of {longest} tokens exceeds the context of {self._base.context}")
        vocabulary = self._base.model.get_input_embeddings().num_embeddings
        if any(len(s) and not 0 <= int(s.ids.min()) <= int(s.ids.max()) < vocabulary for s in job.sequences):
            raise ValueError(f"a token id is outside the vocabulary of {vocabulary}")
        valued = any(len(value_places(s)) for s in job.sequences)
        if valued and self._value_loss is None:
            raise ValueError("a sequence has value targets, and this trainer has no loss for them")
        if not valued and not any(s.weights.any() for s in job.sequences):
            raise ValueError("every loss weight is 0")
        if job.start is not None and job.start.kind != self._target.kind:
            raise ValueError(f"cannot go on from adapter {job.start.id}: its kind is {job.start.kind}, not {self._target.kind}")

    def _advance(self, runs: list[_Run], deadline: Deadline, started: float) -> None:
        """Take optimizer steps for all runs together until each has a reason to stop."""
        optimizer = AdamW(self._weights, self._settings.weight_decay)
        snapshot = self._weights.values.clone()
        while True:
            for run in runs:
                if run.active and run.steps >= run.job.steps:
                    run.reason = "steps"
            active = [run for run in runs if run.active]
            if not active:
                return
            rows = [row for run in active for row in _rows(run)]
            now = deadline.clock()
            reach = max(self._pace, default=0.0) * padded_tokens(rows, self._batch_tokens)
            if deadline.expired(reach):
                for run in active:
                    run.reason = "deadline"
                return
            lr = torch.zeros(self._target.slots)
            for run in active:
                share = share_done(run.steps, run.job.steps, now - started, deadline.remaining() - reach)
                lr[run.slot] = self._lr * rate(share, self._settings.warmup, self._settings.cooldown)
            try:
                losses, norms = self._gradients(rows, deadline)
            except _Stopped as stop:
                for run in active:
                    run.reason = str(stop)
                return
            for run in active:
                self._judge(run, losses[run.slot], norms[run.slot], snapshot)
                if not run.active:
                    lr[run.slot] = 0.0
            snapshot.copy_(self._weights.values)
            optimizer.step(lr.to(self._base.device))
            for run in active:
                if run.active:
                    run.steps += 1
                    run.previous_tokens = run.tokens
                    run.tokens += sum(row.length + 1 for row in rows if row.slot == run.slot)
                    self._on_step(run.steps, run.job.steps, run.losses[-1])
            self._pace.append((deadline.clock() - now) / max(1, padded_tokens(rows, self._batch_tokens)))

    def _judge(self, run: _Run, loss: float, norm: float, snapshot: Tensor) -> None:
        """Stop a run whose loss or gradient is not finite. It keeps the newest weights that gave a finite loss."""
        if _finite(loss):
            run.losses.append(loss)
        if _finite(loss) and _finite(norm):
            return
        run.reason = "nan"
        self._weights.grads[run.slot] = 0
        if not _finite(loss) and run.steps:  # the last update broke the weights: undo it
            self._weights.values[run.slot] = snapshot[run.slot]
            run.steps -= 1
            run.tokens = run.previous_tokens

    def _gradients(self, rows: Sequence[BatchRow], deadline: Deadline) -> tuple[list[float], list[float]]:
        """Compute and clip the gradients. Gives, by slot, the losses and the norms before clipping.

        Raises _Stopped at the deadline, and if memory runs out even with micro-batches of half the size.
        """
        for attempt in range(2):
            try:
                return self._scaled_gradients(rows, deadline)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            if self._base.device.type == "cuda":
                torch.cuda.empty_cache()
            if attempt == 0:
                longest = max(row.length for row in rows)
                self._batch_tokens = max(longest, self._batch_tokens // 2)
                log.warning("out of memory: micro-batches now hold at most %d tokens", self._batch_tokens)
        raise _Stopped("oom")

    def _scaled_gradients(self, rows: Sequence[BatchRow], deadline: Deadline) -> tuple[list[float], list[float]]:
        """As `_gradients`. In fp16 the loss is scaled up; if a gradient overflows, repeat with a smaller scale."""
        while True:
            losses = self._backward(rows, deadline)
            if self._scale > 1:
                self._weights.grads.div_(self._scale)
            norms = clip_gradients(self._weights, self._settings.clip)
            numbers = torch.stack([losses, norms]).tolist()  # the only point of a step that waits for the device
            if self._scale == 1 or all(map(_finite, numbers[1])) or not all(map(_finite, numbers[0])):
                return numbers[0], numbers[1]
            self._scale = max(1.0, self._scale / 4)

    def _backward(self, rows: Sequence[BatchRow], deadline: Deadline) -> Tensor:
        """Compute the gradients of `rows`. Gives the losses (slots,)."""
        self._weights.grads.zero_()
        losses = torch.zeros(self._target.slots, device=self._base.device)
        for group in micro_batches(rows, self._batch_tokens):
            if deadline.expired():  # a step on long sequences takes seconds, and the first one has no estimate
                raise _Stopped("deadline")
            if not group[0].length:
                continue
            threads.adjust()
            batch = collate(group, self._base.codec.pad).to(self._base.device)
            self._target.use(batch.slots)
            with self._precision():
                parts = slot_losses(self._states, self._head, batch, self._target.slots, self._value_loss)
            self._weights.add_gradients(parts.sum() * self._scale)
            losses += parts.detach()
        return losses

    def _precision(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._base.device.type, dtype=self._autocast)

    def _finish(self, run: _Run, seconds: float) -> Fit:
        """Save the weights of a run if any step changed them, and report what was done."""
        job, adapter = run.job, run.job.start
        if run.steps:
            try:
                adapter = AdapterRef(job.adapter_id, self._scratch / job.adapter_id, self._target.kind)
                _write_folder(adapter.path, lambda folder: self._target.save(run.slot, folder))
            except (OSError, SafetensorError) as error:
                why = getattr(error, "strerror", None) or str(error).splitlines()[0]
                run.reason, adapter = f"cannot save the adapter: {why}", job.start
        status: Status = {"steps": "complete", "deadline": "cut"}.get(run.reason, "failed")  # type: ignore[assignment]
        first, final = (run.losses[0], run.losses[-1]) if run.losses else (float("nan"), float("nan"))
        return Fit(job.adapter_id, status, run.reason, adapter, run.steps, run.tokens, seconds, first, final)


def fit_in_stacks(loop_of: Callable[[int], Loop], jobs: Sequence[FitJob], stack: int, deadline: Deadline) -> Iterator[Fit]:
    """Fit `jobs`, `stack` at a time. `loop_of(n)` gives a loop with n slots. After the deadline, the rest are cut at once."""
    for first in range(0, len(jobs), stack):
        chunk = jobs[first : first + stack]
        yield from loop_of(len(chunk)).fit(chunk, deadline)


def _rows(run: _Run) -> list[BatchRow]:
    chosen = [run.job.sequences[i] for i in next(run.batches)]
    total = float(sum(sequence.weights.sum(dtype="float64") for sequence in chosen))
    valued = sum(len(value_places(sequence)) for sequence in chosen)
    return [BatchRow(run.slot, sequence, total or 1.0, valued or 1.0) for sequence in chosen]


def _refusal(job: FitJob, reason: str) -> Fit:
    nan = float("nan")
    return Fit(job.adapter_id, "failed", reason, None, 0, 0, 0.0, nan, nan)


def _finite(number: float) -> bool:
    return number - number == 0


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write to a folder beside `folder`, then rename that: `folder` is never incomplete."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
