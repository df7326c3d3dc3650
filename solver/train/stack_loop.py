"""The step loop for many tasks in one step, made for GPUs, though not run on one yet: inside a step nothing waits for the device.

Every step is one or a few passes over (tasks, rows, width) tokens and one optimizer step for all tasks. The host prepares and
starts steps, and reads their losses and norms `CHECK_SECONDS` later, several steps at once. From them it counts what the device
has done: both follow the same rules (`train.stack_update`). The pace for the deadline is measured from check to check. On a CPU
every operation is waited for, and the same code runs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from solver.config import TrainSettings
from solver.model import threads
from solver.model.fused_training import decoder_states
from solver.model.head import OutputHead
from solver.model.load import Base
from solver.model.memory import is_out_of_memory
from solver.train.batches import to_device
from solver.train.compiler import PassCompiler
from solver.train.loop import FIRST_LOSS_SCALE, finite
from solver.train.loss import slot_losses
from solver.train.runs import FitTarget, Run, Stopped, fit_together
from solver.train.schedule import peak_lr, rate, share_done
from solver.train.stack_update import SCALE_CUT, StackState
from solver.train.task_batches import PackedSequence, PassTensors, TaskBatch, TaskPass, task_passes
from solver.train.weights import FlatWeights
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.5  # of steps that are started before the host looks at their losses
MAX_UNCHECKED = 16  # steps started before it looks
DENSE_VOCABULARY = 1024  # up to this size logits are computed for every token: then all shapes of a pass follow from its widths


class StackTarget(FitTarget, Protocol):
    """A target whose slots are the adapters of a stack."""

    def use_tasks(self, weights: Tensor | None) -> None:
        """Use these adapters (tasks, numbers) for the tasks of the next pass; None: no pass follows."""
        ...


@dataclass(eq=False)
class _StackRun:
    """What the host knows of one slot: a run with the steps that were started and not yet read back."""

    run: Run
    sequences: list[PackedSequence]
    scale: float  # of its loss, as far as records were read
    started: int = 0  # steps, those included whose records were not read
    again: deque[tuple[int, ...]] = field(default_factory=deque)  # batches of steps whose gradient overflowed

    @property
    def waiting(self) -> bool:
        """Whether it has steps that were not started."""
        return self.run.active and self.started < self.run.job.steps

    def next_batch(self) -> tuple[tuple[int, ...], TaskBatch]:
        """The indices of the sequences of the next step, and its batch."""
        chosen = self.again.popleft() if self.again else next(self.run.batches)
        self.started += 1
        return chosen, TaskBatch.of(self.run.slot, [self.sequences[i] for i in chosen])


@dataclass(frozen=True, eq=False)
class _Started:
    """A step that the device may still work on."""

    chosen: list[tuple[_StackRun, tuple[int, ...]]]  # who takes part, with the indices of its sequences
    record: Tensor  # (2, slots), see `StackState.update`


class StackLoop:
    """Fits jobs on a stack. From fit to fit it remembers the seconds that a token takes, and the batch size that fits memory."""

    def __init__(self, base: Base, target: StackTarget, settings: TrainSettings, scratch: Path, compiler: PassCompiler) -> None:
        self._base, self._target, self._settings, self._scratch = base, target, settings, scratch
        self._compiler = compiler
        self._lr = peak_lr(settings.lr, base.parameters)
        self._weights = FlatWeights(target.parameters(), target.slots)
        self._batch_tokens = settings.batch_tokens
        self._pace: deque[float] = deque(maxlen=4)  # seconds for each token, padding included, between the latest checks
        self._has_compiled = False  # since the last measurement
        self._first_scale = FIRST_LOSS_SCALE if base.dtype == torch.float16 else 1.0
        self._states = decoder_states(target.model)
        self._head = OutputHead.of(target.model)
        self._dense = self._head.weight.shape[0] <= DENSE_VOCABULARY
        if settings.checkpointing:
            target.model.gradient_checkpointing_enable({"use_reentrant": False})

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> list[Fit]:
        """Fit at most `slots` jobs together. A bad job fails alone. The global random generators are left as they were."""
        return fit_together(self._base, self._target, self._settings, self._scratch, jobs, deadline, self._advance)

    def move(self, device: torch.device) -> None:
        """Move what is trained to another device, between two fits. The base's weights stay where they are."""
        self._weights.move(device)

    def _advance(self, runs: list[Run], deadline: Deadline, started: float) -> None:
        """Start steps for all runs together until each has a reason to stop."""
        stack = [_StackRun(run, [PackedSequence.of(s) for s in run.job.sequences], self._first_scale) for run in runs]
        state = StackState(self._weights, self._settings.clip, self._settings.weight_decay, self._first_scale)
        try:
            reason = self._start_steps(stack, state, deadline, started)
        finally:
            self._target.use_tasks(None)
        for run in runs:
            run.reason = run.reason or reason

    def _start_steps(self, stack: list[_StackRun], state: StackState, deadline: Deadline, started: float) -> str:
        """Start steps until no run waits for one. Gives the reason to stop for the runs that have none."""
        unread: list[_Started] = []
        tokens, since = 0, deadline.clock()  # padded tokens of the unread steps, and when the first of them was started
        while True:
            waiting = [one for one in stack if one.waiting]
            pace = max(self._pace, default=0.0)
            enough = not self._pace or pace * tokens >= CHECK_SECONDS or len(unread) >= MAX_UNCHECKED
            if unread and (enough or not waiting):
                self._read(unread)
                self._measure(tokens, deadline.clock() - since)
                unread, tokens, since = [], 0, deadline.clock()
                continue
            if not waiting:
                return "steps"
            if self._compiler.compile_if_due(deadline.remaining()):
                self._pace.clear()
            drawn = [(one, *one.next_batch()) for one in waiting]
            passes = task_passes([batch for _, _, batch in drawn], self._batch_tokens)
            tokens += sum(one.tokens for one in passes)
            now = deadline.clock()
            reach = max(0.0, pace * tokens - (now - since))  # until the device has done this step and those before it
            if deadline.expired(reach):
                self._read(unread)
                return "deadline"
            rates = torch.zeros(2, self._target.slots)
            for one, _, _ in drawn:
                share = share_done(one.started - 1, one.run.job.steps, now - started, deadline.remaining() - reach)
                rates[0, one.run.slot] = self._lr * rate(share, self._settings.warmup, self._settings.cooldown)
                rates[1, one.run.slot] = 1.0
            try:
                record = self._step(state, passes, to_device(rates, self._base.device), deadline)
            except Stopped as stop:
                self._read(unread)
                return str(stop)
            unread.append(_Started([(one, chosen) for one, chosen, _ in drawn], record))

    def _measure(self, tokens: int, seconds: float) -> None:
        """Take in that steps on so many padded tokens took `seconds`. Those in which something was compiled tell nothing."""
        if self._has_compiled:
            self._has_compiled = False
            return
        self._pace.append(seconds / max(1, tokens))
        self._compiler.observe(seconds)

    def _read(self, unread: Sequence[_Started]) -> None:
        """Wait for the device, and count what it has done."""
        if not unread:
            return
        records = torch.stack([step.record for step in unread]).tolist()  # the only point that waits for the device
        for step, (losses, norms) in zip(unread, records, strict=True):
            for one, chosen in step.chosen:
                if one.run.active:
                    _count(one, chosen, losses[one.run.slot], norms[one.run.slot])

    def _step(self, state: StackState, passes: Sequence[TaskPass], rates: Tensor, deadline: Deadline) -> Tensor:
        """Start one step and give its record. Raises Stopped at the deadline, and if memory runs out at half the size, too.

        If the compiler fails, the step is done without it.
        """
        halved = False
        while True:
            try:
                self._gradients(state, passes, deadline)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    self._without_compiler(error)
                    continue
            if halved:
                raise Stopped("oom")
            if self._base.device.type == "cuda":
                torch.cuda.empty_cache()
            batches = [batch for one in passes for batch in one.batches]
            longest = max(sequence.read for batch in batches for sequence in batch.sequences)
            self._batch_tokens, halved = max(longest, self._batch_tokens // 2), True
            log.warning("out of memory: passes now hold at most %d tokens", self._batch_tokens)
            passes = task_passes(batches, self._batch_tokens)
        try:
            return state.update(self._compiler.update, rates)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):  # the weights are changed last, so they are still those of the step before
                raise Stopped("oom") from None
            self._without_compiler(error)
            return state.update(self._compiler.update, rates)

    def _without_compiler(self, error: Exception) -> None:
        """Go on without the compiler after an error of a compiled function. Raises the error if nothing is compiled."""
        if not self._compiler.compiled:
            raise error
        self._compiler.give_up(error)

    def _gradients(self, state: StackState, passes: Sequence[TaskPass], deadline: Deadline) -> None:
        """Start the passes, which add to the losses and gradients of the step."""
        state.begin_step()
        pad = self._base.codec.pad
        for one in passes:
            if deadline.expired():
                raise Stopped("deadline")
            threads.adjust()
            if shape := self._compiler.example_shape(*one.shape[:2]):
                self._has_compiled = True
                self._pass(state, PassTensors.example(shape, pad))
            self._pass(state, PassTensors.of(one, pad))

    def _pass(self, state: StackState, host: PassTensors) -> None:
        """Start one pass, which adds to the losses and gradients of the step."""
        tensors = host.to(self._base.device)
        weights = self._weights.values.index_select(0, tensors.slots).to(self._base.dtype).requires_grad_()
        self._target.use_tasks(weights)
        if self._dense:
            losses = self._dense_losses(tensors)
        else:
            losses = slot_losses(self._states, self._head, host.predictions().to(self._base.device), len(tensors.slots))
        scaled = (losses * state.scale[tensors.slots]).sum()
        (gradient,) = torch.autograd.grad(scaled, weights)
        self._weights.grads.index_add_(0, tensors.slots, gradient.float())
        state.losses.index_add_(0, tensors.slots, losses.detach())

    def _dense_losses(self, tensors: PassTensors) -> Tensor:
        """(tasks,) fp32: the loss of each task of a pass, with logits for every token of it."""
        hidden = self._target.model.get_decoder()(input_ids=tensors.ids, use_cache=False).last_hidden_state
        logits = self._head(hidden).float().flatten(0, 1)
        losses = functional.cross_entropy(logits, tensors.targets, reduction="none") * tensors.weights
        return losses.view(len(tensors.slots), -1).sum(1) * tensors.share


def _count(one: _StackRun, chosen: tuple[int, ...], loss: float, norm: float) -> None:
    """Count a step as the device did it, see `train.stack_update`: it was taken, or overflowed, or stops the run."""
    run = one.run
    if finite(loss):
        run.losses.append(loss)
    if finite(loss) and finite(norm):
        run.count_step(sum(one.sequences[i].read + 1 for i in chosen))
        if run.steps == run.job.steps:
            run.reason = "steps"
    elif finite(loss) and one.scale > 1:
        one.scale = max(1.0, one.scale / SCALE_CUT)
        one.started -= 1
        one.again.append(chosen)
    else:
        run.reason = "nan"
        if not finite(loss) and run.steps:  # the last update broke the weights: the device undid it
            run.undo_step()
