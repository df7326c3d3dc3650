"""The step loop of all trainers. Fits advance together, one optimizer step for all, until each has a reason to stop.

The deadline is checked before every step and before every micro-batch of a step.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from solver.config import TrainSettings
from solver.model import threads
from solver.model.fused_training import BEST_TOKENS, FusedTrainingPass, States, decoder_states
from solver.model.head import OutputHead
from solver.model.load import Base
from solver.model.memory import is_out_of_memory
from solver.train.batches import BatchRow, collate, micro_batches, padded_tokens
from solver.train.loss import slot_losses
from solver.train.runs import FitTarget, Run, fit_together
from solver.train.schedule import peak_lr, rate, share_done
from solver.train.weights import AdamW, FlatWeights, clip_gradients
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

FIRST_LOSS_SCALE = 2.0**14  # the loss is multiplied by it in fp16, where gradients below 6e-8 become 0; less after an overflow


class _Stopped(Exception):
    """A step was not finished. The message is the reason: "deadline" or "oom"."""


class Loop:
    """Fits jobs on a target. From fit to fit it remembers the seconds that a token takes, and the batch size that fits memory."""

    def __init__(
        self, base: Base, target: FitTarget, settings: TrainSettings, scratch: Path, autocast: torch.dtype | None
    ) -> None:
        self._base = base
        self._target = target
        self._settings = settings
        self._lr = peak_lr(settings.lr, base.parameters)
        self._scratch = scratch
        self._autocast = autocast
        self._weights = FlatWeights(target.parameters(), target.slots, target.reentrant)
        self._batch_tokens = settings.batch_tokens
        self._pace: deque[float] = deque(maxlen=8)  # seconds for each token, padding included, in the latest steps
        self._first_scale = FIRST_LOSS_SCALE if torch.float16 in (base.dtype, autocast) else 1.0
        self._scale = self._first_scale
        self._states: States = decoder_states(target.model)
        self._head = OutputHead.of(target.model)
        if settings.checkpointing:
            target.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif target.slots == 1 and autocast is None and FusedTrainingPass.fits(target.model):
            self._states = FusedTrainingPass(target.model)
            self._batch_tokens = min(self._batch_tokens, BEST_TOKENS)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> list[Fit]:
        """Fit at most `slots` jobs together. A bad job fails alone. The global random generators are left as they were."""
        self._scale = self._first_scale  # an overflow lowers it, which must not cost the next fit its small gradients
        return fit_together(self._base, self._target, self._settings, self._scratch, jobs, deadline, self._advance)

    def move(self, device: torch.device) -> None:
        """Move what is trained to another device, between two fits. The base's weights stay where they are."""
        self._weights.move(device)

    def _advance(self, runs: list[Run], deadline: Deadline, started: float) -> None:
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
                    run.count_step(sum(row.length + 1 for row in rows if row.slot == run.slot))
            self._pace.append((deadline.clock() - now) / max(1, padded_tokens(rows, self._batch_tokens)))

    def _judge(self, run: Run, loss: float, norm: float, snapshot: Tensor) -> None:
        """Stop a run whose loss or gradient is not finite. It keeps the newest weights that gave a finite loss."""
        if finite(loss):
            run.losses.append(loss)
        if finite(loss) and finite(norm):
            return
        run.reason = "nan"
        self._weights.grads[run.slot] = 0
        if not finite(loss) and run.steps:  # the last update broke the weights: undo it
            self._weights.values[run.slot] = snapshot[run.slot]
            run.undo_step()

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
            if self._scale == 1 or all(map(finite, numbers[1])) or not all(map(finite, numbers[0])):
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
                parts = slot_losses(self._states, self._head, batch, self._target.slots)
            self._weights.add_gradients(parts.sum() * self._scale)
            losses += parts.detach()
        return losses

    def _precision(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._base.device.type, dtype=self._autocast)


class FitsTogether(Protocol):
    """A loop that fits some jobs together."""

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> list[Fit]:
        """See `Loop.fit`."""
        ...


def fit_in_stacks(
    loop_of: Callable[[int], FitsTogether], jobs: Sequence[FitJob], stack: int, deadline: Deadline
) -> Iterator[Fit]:
    """Fit `jobs`, `stack` at a time. `loop_of(n)` gives a loop with n slots. After the deadline, the rest are cut at once."""
    for first in range(0, len(jobs), stack):
        chunk = jobs[first : first + stack]
        yield from loop_of(len(chunk)).fit(chunk, deadline)


def _rows(run: Run) -> list[BatchRow]:
    chosen = [run.job.sequences[i] for i in next(run.batches)]
    total = float(sum(sequence.weights.sum(dtype="float64") for sequence in chosen))
    return [BatchRow(run.slot, sequence, total or 1.0) for sequence in chosen]


def finite(number: float) -> bool:
    """Whether it is neither infinite nor not a number."""
    return number - number == 0
