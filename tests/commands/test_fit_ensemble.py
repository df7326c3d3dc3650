"""`solver fit-ensemble`: from runs with known answers to a file, and what it says of its fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import grid, make_tasks, outcome, program_outcome, write_challenges, write_solutions
from typer.testing import CliRunner

from solver.arc.datasets import TaskSet
from solver.arc.ensemble import PRIOR, load_ensemble
from solver.cli import app
from solver.commands.fit_ensemble import stages_of
from solver.commands.select import read_run
from solver.config import Settings
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity, RunFacts

WRONG = np.full((1, 1), 7, np.uint8)


def new_run(folder: Path, tasks: TaskSet, solutions: bool = True) -> Ledger:
    folder.mkdir()
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    settings = Settings.model_validate({"select": {"rule": "flat_vote"}})
    challenges = str(write_challenges(folder / "challenges.json", tasks))
    answers = str(write_solutions(folder / "solutions.json", tasks)) if solutions else ""
    ledger.set_facts(RunFacts(all_settings=settings.model_dump(mode="json"), challenges=challenges, solutions=answers))
    return ledger


def right(tasks: TaskSet, place: int) -> np.ndarray:
    answer = tasks.tasks[place].test[0].output
    assert answer is not None
    return answer


def fit(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["fit-ensemble", *map(str, arguments)], env={"COLUMNS": "200"})


def test_runs_of_both_engines_are_joined_and_counted(tmp_path: Path) -> None:
    """Of 20 tasks the network solves those below 12 in its second pass, exact programs those from 6 on; two have no program."""
    tasks = make_tasks(20)
    network, programs = new_run(tmp_path / "network", tasks), new_run(tmp_path / "programs", tasks)
    for place, task in enumerate(tasks):
        network.record(outcome(task.id, 0, grids=(WRONG, grid(5))))
        network.record(outcome(task.id, 1, grids=(right(tasks, place),) * 3 if place < 12 else (WRONG,)))
        if place >= 2:
            programs.record_programs(program_outcome(task.id, right(tasks, place) if place >= 6 else WRONG[:, :1] + 1))
    for ledger in (network, programs):
        ledger.close()
    answers = {task.id: [pair.output for pair in task.test] for task in tasks}
    stages = list(stages_of([read_run(tmp_path / "network"), read_run(tmp_path / "programs")], answers))
    assert len(stages) == 18 * 3 + 2 * 2  # those with programs without the network, and all after two passes
    assert sum(stage.last for stage in stages) == 20
    out = tmp_path / "ensemble.json"
    result = fit(tmp_path / "network", tmp_path / "programs", "--out", out)
    assert result.exit_code == 0, result.output
    assert "18 test inputs that both worked on, after the last pass of the network" in result.stderr
    assert "by the network 10, by programs 14, by either 18" in result.stderr
    assert "by two attempts of the ensemble 18" in result.stderr
    assert f"{out}: ensemble, fitted to 18 tasks of network, programs" in result.stdout
    fitted = load_ensemble(out)
    assert fitted.parameters["exact"] > PRIOR["exact"]


@pytest.mark.parametrize("solutions", [True, False])
def test_runs_without_programs_or_answers_are_refused(tmp_path: Path, solutions: bool) -> None:
    tasks = make_tasks(2)
    ledger = new_run(tmp_path / "run", tasks, solutions)
    if solutions:
        ledger.record(outcome("task000", 0, grids=(WRONG,)))
    else:
        ledger.record_programs(program_outcome("task000", WRONG))
    ledger.close()
    result = fit(tmp_path / "run", "--out", tmp_path / "ensemble.json")
    assert result.exit_code == 2
    assert "no programs for test inputs" in result.stderr
    assert not (tmp_path / "ensemble.json").exists()
