"""The simulated disk of a rehearsal: it checks the submission at every write, and counts events instead of storing them."""

# ruff: noqa: ARG002  (SimulatedLedger takes what a ledger takes, and counts)

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from itertools import compress
from operator import is_not
from random import Random

from solver.arc.datasets import TaskSet
from solver.arc.grid import Grid
from solver.arc.submission import Attempts, Submission, entry_flaws, submission_json
from solver.budget.rehearsal import Faults
from solver.commands.simulated_executor import SimulatedClock
from solver.run.ledger import Event, LedgerError
from solver.run.ledger_work import WorkDone
from solver.types import Fit, ProgramOutcome, TaskOutcome, TaskPlan


@dataclass(eq=False)
class SimulatedDisk:
    """Holds the submission and checks it at every write. In some runs it is full for a while."""

    clock: SimulatedClock
    tasks: TaskSet
    budget: float  # seconds
    faults: Faults
    dice: Random
    # grids known to be valid, by `id`; they are kept so that no other grid gets the same `id`
    good_grids: MutableMapping[int, Grid] = field(default_factory=dict)
    writes: int = 0
    invalid: int = 0
    held: Submission = field(default_factory=dict)
    _full: tuple[float, float] = (0.0, 0.0)
    _good: Submission = field(default_factory=dict)  # the last valid submission
    _pace: float = 0.0  # seconds of its slowest write

    def __post_init__(self) -> None:
        self._pace = self.dice.uniform(0.0, self.faults.write_seconds)
        if self.dice.random() < self.faults.full_disk:
            began = self.dice.uniform(0.02, 1.0) * self.budget
            self._full = (began, began + 0.1 * self.budget)

    def finish(self) -> None:
        """Check the submission and write the summary, as at the end of a run."""
        self.check()
        self.clock.now += 2 * self._pace * self.dice.uniform(0.5, 1.0)

    @property
    def full(self) -> bool:
        """Whether it refuses writes now."""
        return self._full[0] <= self.clock.now < self._full[1]

    def write(self, submission: Submission) -> None:
        """Replace the submission; this takes time. Raises OSError while the disk is full, but never for the first write."""
        self.clock.now += self._pace * self.dice.uniform(0.5, 1.0)
        if self.full and self.held:
            raise OSError(28, "No space left on device (simulated)")
        self.held = dict(submission)
        self.writes += 1
        self.check()

    def check(self) -> None:
        """Count the file if it is not complete and valid; answers that were looked at before are not read again."""
        changed = compress(self.held.items(), map(is_not, self.held.values(), map(self._good.get, self.held)))
        valid = self.held.keys() == self.tasks.test_counts.keys() and all(self._entries_valid(*one) for one in changed)
        if valid:
            self._good = self.held
        self.invalid += not valid

    def _entries_valid(self, id_: str, entries: tuple[Attempts, ...]) -> bool:
        return len(entries) == self.tasks.test_counts[id_] and all(map(self._entry_valid, entries))

    def _entry_valid(self, attempts: Attempts) -> bool:
        if len(attempts) == 2 and all(id(grid) in self.good_grids for grid in attempts):
            return True
        (written,) = submission_json({"": (attempts,)})[""]
        valid = not entry_flaws(written)
        if valid:
            self.good_grids.update((id(grid), grid) for grid in attempts)
        return valid


class SimulatedLedger:
    """Takes the place of the ledger, which would cost more than all the rest: counts events, and refuses on a full disk."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk
        self.kinds: Counter[str] = Counter()

    def shared_fit(self) -> Fit | None:
        """None: a rehearsal is a first run."""
        return None

    def event(self, event: Event) -> None:
        """Count an event."""
        self._write()
        self.kinds[event.kind] += 1

    def record(self, outcome: TaskOutcome) -> None:
        """Count the events of a pass."""
        self._write()
        self.kinds.update(kind for kind, _ in outcome.events)

    def record_programs(self, outcome: ProgramOutcome) -> None:
        """Nothing to count."""
        self._write()

    def record_shared(self, fit: Fit) -> None:
        """Nothing to count."""
        self._write()

    def plan(self, task: str, wave: int, plan: TaskPlan, seconds: float, reason: str) -> None:
        """Nothing to count."""
        self._write()

    def set_status(self, task: str, status: str) -> None:
        """Nothing to count."""
        self._write()

    def timing(self, phase: str, planned: float | None, used: float, start: int) -> None:
        """Nothing to count."""
        self._write()

    def worked(self, done: WorkDone) -> None:
        """Nothing to count."""
        self._write()

    def _write(self) -> None:
        if self._disk.full:
            raise LedgerError("cannot write the ledger: the disk is full (simulated)")
