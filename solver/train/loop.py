"""The step loop of trainers that fit one job at a time. `train.stack_loop` advances many jobs by one step.

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
from solver.model.residual_dropout import add_residual_dropout
from solver.train.batches import BatchRow, collate, micro_batches, padded_tokens, value_places
from solver.train.loss import ValueLoss, slot_losses
from solver.train.runs import FitTarget, Run, Stopped, fit_together
from solver.train.schedule import peak_lr, rate, share_done
from solver.train.weights import AdamW, FlatWeights, clip_gradients
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

OnStep = Callable[[int, int, float], None]  # gets steps done, steps of the fit, and the loss before the latest step

FIRST_LOSS_SCALE = 2.0**14  # the loss is multiplied by it in fp16, where gradients below 6e-8 become 0; less after an overflow


class Loop:
    """Fits one job after another on a target with one slot.

    From fit to fit it remembers the seconds that a token takes, and the batch size that fits memory.
    """

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
        self._weights = FlatWeights(target.parameters(), 1, target.reentrant)
        self._batch_tokens = settings.batch_tokens
        self._pace: deque[float] = deque(maxlen=8)  # seconds for each token, padding included, in the latest steps
        self._first_scale = FIRST_LOSS_SCALE if torch.float16 in (base.dtype, autocast) else 1.0
        self._scale = self._first_scale
        self._states: States = decoder_states(target.model)
        self._head = OutputHead.of(target.model)
        if settings.checkpointing:
            target.model.gradient_checkpointing_enable({"use_reentrant": False})
        if not settings.checkpointing and autocast is None and FusedTrainingPass.fits(target.model):
            self._states = FusedTrainingPass(target.model, residual_dropout)
            self._batch_tokens = min(self._batch_tokens, BEST_TOKENS)
        elif residual_dropout:
            add_residual_dropout(target.model, residual_dropout)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> list[Fit]:
        """Fit one job. The global random generators are left as they were."""
        self._scale = self._first_scale  # an overflow lowers it, which must not cost the next fit its small gradients
        valued = self._value_loss is not None
        return fit_together(self._base, self._target, self._settings, self._scratch, jobs, deadline, self._advance, valued)

    def move(self, device: torch.device) -> None:
        """Move what is trained to another device, between two fits. The base's weights stay where they are."""
        self._weights.move(device)

    def _advance(self, runs: list[Run], deadline: Deadline, started: float) -> None:
        """Take optimizer steps for the run, if its job was not refused, until it has a reason to stop."""
        for run in runs:
            run.reason = self._take_steps(run, deadline, started)

    def _take_steps(self, run: Run, deadline: Deadline, started: float) -> str:
        """Take optimizer steps. Gives the reason to stop."""
        optimizer = AdamW(self._weights, self._settings.weight_decay)
        snapshot = self._weights.values.clone()
        while run.steps < run.job.steps:
            rows = _rows(run)
            now = deadline.clock()
            reach = max(self._pace, default=0.0) * padded_tokens(rows, self._batch_tokens)
            if deadline.expired(reach):
                return "deadline"
            share = share_done(run.steps, run.job.steps, now - started, deadline.remaining() - reach)
            lr = self._lr * rate(share, self._settings.warmup, self._settings.cooldown)
            try:
                loss, norm = self._gradients(rows, deadline)
            except Stopped as stop:
                return str(stop)
            if finite(loss):
                run.losses.append(loss)
            if not finite(loss) or not finite(norm):
                self._keep_good_weights(run, loss, snapshot)
                return "nan"
            snapshot.copy_(self._weights.values)
            optimizer.step(torch.tensor([lr], device=self._base.device))
            run.count_step(sum(row.length + 1 for row in rows))
            self._on_step(run.steps, run.job.steps, loss)
            self._pace.append((deadline.clock() - now) / max(1, padded_tokens(rows, self._batch_tokens)))
        return "steps"

    def _keep_good_weights(self, run: Run, loss: float, snapshot: Tensor) -> None:
        """After a loss or gradient that is not finite: keep the newest weights that gave a finite loss."""
        if not finite(loss) and run.steps:  # the last update broke the weights: undo it
            self._weights.values.copy_(snapshot)
            run.undo_step()

    def _gradients(self, rows: Sequence[BatchRow], deadline: Deadline) -> tuple[float, float]:
        """Compute and clip the gradient. Gives the loss, and the norm of the gradient before clipping.

        Raises Stopped at the deadline, and if memory runs out even with micro-batches of half the size.
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
        raise Stopped("oom")

    def _scaled_gradients(self, rows: Sequence[BatchRow], deadline: Deadline) -> tuple[float, float]:
        """As `_gradients`. In fp16 the loss is scaled up; if a gradient overflows, repeat with a smaller scale."""
        while True:
            loss_on_device = self._backward(rows, deadline)
            if self._scale > 1:
                self._weights.grads.div_(self._scale)
            norms = clip_gradients(self._weights, self._settings.clip)
            loss, norm = torch.cat([loss_on_device, norms]).tolist()  # the only point of a step that waits for the device
            if self._scale == 1 or finite(norm) or not finite(loss):
                return loss, norm
            self._scale = max(1.0, self._scale / 4)

    def _backward(self, rows: Sequence[BatchRow], deadline: Deadline) -> Tensor:
        """Compute the gradients of `rows`. Gives the loss (1,)."""
        self._weights.grads.zero_()
        loss = torch.zeros(1, device=self._base.device)
        for group in micro_batches(rows, self._batch_tokens):
            if deadline.expired():  # a step on long sequences takes seconds, and the first one has no estimate
                raise Stopped("deadline")
            if not group[0].length:
                continue
            threads.adjust()
            batch = collate(group, self._base.codec.pad).to(self._base.device)
            with self._precision():
                part = slot_losses(self._states, self._head, batch, 1, self._value_loss)
            self._weights.add_gradients(part.sum() * self._scale)
            loss += part.detach()
        return loss

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
    valued = sum(len(value_places(sequence)) for sequence in chosen)
    return [BatchRow(run.slot, sequence, total or 1.0, valued or 1.0) for sequence in chosen]


def finite(number: float) -> bool:
    """Whether it is neither infinite nor not a number."""
    return number - number == 0
