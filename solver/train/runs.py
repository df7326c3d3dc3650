"""Fits of several jobs together: what is checked before, what is counted meanwhile, what is saved and reported at the end."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from solver.config import TrainSettings
from solver.errors import InputError
from solver.model.load import Base
from solver.train.batches import optimizer_batches, value_places
from solver.types import AdapterRef, Deadline, Fit, FitJob, Status

log = logging.getLogger(__name__)


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

    def save(self, slot: int, folder: Path) -> None:
        """Write the slot's weights to the existing folder `folder`."""
        ...


@dataclass
class Run:
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
        """Whether it has not stopped."""
        return not self.reason

    def count_step(self, tokens: int) -> None:
        """Count an optimizer step on so many tokens."""
        self.steps += 1
        self.previous_tokens = self.tokens
        self.tokens += tokens

    def undo_step(self) -> None:
        """Count the last step no longer, because its update was undone."""
        self.steps -= 1
        self.tokens = self.previous_tokens


class Stopped(Exception):
    """A step was not finished. The message is the reason to stop: "deadline" or "oom"."""


Advance = Callable[[list[Run], Deadline, float], None]  # takes the moment when the fit began


def fit_together(
    base: Base,
    target: FitTarget,
    settings: TrainSettings,
    scratch: Path,
    jobs: Sequence[FitJob],
    deadline: Deadline,
    advance: Advance,
    valued: bool = False,
) -> list[Fit]:
    """Fit at most `target.slots` jobs by `advance`, which takes optimizer steps until every run has a reason to stop.

    `valued` says that `advance` has a loss for value targets. A bad job fails alone. Whatever `advance` raises fails the runs
    that have not stopped. Adapters are written to folders in `scratch`. The global random generators are left as they were.
    """
    started = deadline.clock()
    refused: dict[str, str] = {}
    runs: list[Run] = []
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(jobs[0].seed)  # dropout
        for job in jobs:
            try:
                _check(base, target, job, valued)
                target.begin(len(runs), job.seed, job.start.path if job.start else None)
            except (InputError, ValueError) as error:
                refused[job.adapter_id] = str(error)
                continue
            lengths = [len(sequence) for sequence in job.sequences]
            runs.append(Run(len(runs), job, optimizer_batches(lengths, job.steps, settings.batch_sequences, job.seed)))
        target.model.train()
        try:
            advance(runs, deadline, started)
        except Exception as error:  # whatever a model or a device raises fails these jobs, not the run
            log.exception("fit failed")
            for run in runs:
                run.reason = run.reason or f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            target.model.eval()
    by_job = {run.job.adapter_id: run for run in runs}
    seconds = (deadline.clock() - started) / len(jobs)
    return [
        _finish(target, scratch, by_job[job.adapter_id], seconds)
        if job.adapter_id in by_job
        else _refusal(job, refused[job.adapter_id])
        for job in jobs
    ]


def _check(base: Base, target: FitTarget, job: FitJob, valued: bool) -> None:
    """Raises ValueError for a job that cannot be fitted."""
    if not job.sequences:
        raise ValueError("no training sequences")
    longest = max(map(len, job.sequences))
    if longest > base.context:
        raise ValueError(f"a sequence of {longest} tokens exceeds the context of {base.context}")
    vocabulary = base.model.get_input_embeddings().num_embeddings
    if any(len(s) and not 0 <= int(s.ids.min()) <= int(s.ids.max()) < vocabulary for s in job.sequences):
        raise ValueError(f"a token id is outside the vocabulary of {vocabulary}")
    targets = any(len(value_places(s)) for s in job.sequences)
    if targets and not valued:
        raise ValueError("a sequence has value targets, and this trainer has no loss for them")
    if not targets and not any(s.weights.any() for s in job.sequences):
        raise ValueError("every loss weight is 0")
    if job.start is not None and job.start.kind != target.kind:
        raise ValueError(f"cannot go on from adapter {job.start.id}: its kind is {job.start.kind}, not {target.kind}")


def _finish(target: FitTarget, scratch: Path, run: Run, seconds: float) -> Fit:
    """Save the weights of a run if any step changed them, and report what was done."""
    job, adapter = run.job, run.job.start
    if run.steps:
        try:
            adapter = AdapterRef(job.adapter_id, scratch / job.adapter_id, target.kind)
            _write_folder(adapter.path, lambda folder: target.save(run.slot, folder))
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or str(error).splitlines()[0]
            run.reason, adapter = f"cannot save the adapter: {why}", job.start
    status: Status = {"steps": "complete", "deadline": "cut"}.get(run.reason, "failed")  # type: ignore[assignment]
    first, final = (run.losses[0], run.losses[-1]) if run.losses else (float("nan"), float("nan"))
    return Fit(job.adapter_id, status, run.reason, adapter, run.steps, run.tokens, seconds, first, final)


def _refusal(job: FitJob, reason: str) -> Fit:
    nan = float("nan")
    return Fit(job.adapter_id, "failed", reason, None, 0, 0, 0.0, nan, nan)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write to a folder beside `folder`, then rename that: `folder` is never incomplete."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
