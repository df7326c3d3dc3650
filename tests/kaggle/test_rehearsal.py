"""The notebook with the real solver in the wheel of its data set, without network: `make kaggle-rehearsal` in short."""

from __future__ import annotations

import json
from pathlib import Path

import bundle
import pytest
from kaggle_machine import Machine
from rehearse import SOLVER

from solver.arc.datasets import load_solutions, load_tasks, shortest_tasks
from solver.arc.submission import load_submission, score

TASKS = 4
BUDGET = 55  # seconds


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that are uploaded to Kaggle."""
    out = tmp_path_factory.mktemp("bundles")
    for name in ("solver", "kernel"):
        (out / name).mkdir()
    bundle.build_solver(out / "solver", "somebody")
    bundle.build_kernel(out / "kernel", "somebody", wheels=True)
    return out


def test_the_bundles_are_what_kaggle_asks_for(bundles: Path) -> None:
    version = json.loads((bundles / "solver/version.json").read_text())
    assert (bundles / "solver" / version["wheel"]).is_file()
    kernel = json.loads((bundles / "kernel/kernel-metadata.json").read_text())
    assert kernel["dataset_sources"] == ["somebody/arc-solver", "somebody/arc-solver-wheels"]
    assert (bundles / "kernel" / kernel["code_file"]).is_file()
    for path in bundles.rglob("*-metadata.json"):
        assert "USERNAME" not in path.read_text()
    assert "solver/ in all" in bundle.sizes(bundles)


@pytest.mark.slow
def test_a_short_rehearsal_solves_tasks(bundles: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), TASKS)
    machine.challenges = {task.id: task.without_answers().to_json() for task in tasks}
    folder = machine.place.folder("datasets", SOLVER)
    for path in (bundles / "solver").iterdir():
        (folder / path.name).hardlink_to(path)
    done = machine.run(FIRST_RUN=BUDGET)
    machine.assert_good(done, BUDGET)
    answers = {id_: grids for id_, grids in load_solutions("arc1:evaluation").items() if id_ in tasks.ids}
    assert score(load_submission(done.working / "submission.json"), answers)["per_prediction"]["solved"] > 0, done.text
    assert "solver run failed" not in done.text
    logs = sorted(path.name for path in (done.working / "logs").iterdir())
    assert logs == ["check.txt", "doctor.txt", "run-1-log.txt", "run-1-summary.json", "run-1-worker.log", "run.txt"]
