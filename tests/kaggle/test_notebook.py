"""The notebook as a file, and those of its functions that know what a task and a submission are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from build_notebook import NOTEBOOK, SOURCE, text
from kaggle_machine import BROKEN, Machine, small_task
from rehearse import COMPETITION, lay_out

from solver.arc.datasets import load_tasks
from solver.arc.submission import defects, fallback_submission, submission_json

LONGEST = 60  # lines of a cell
KAGGLE = SOURCE.parent


def test_the_notebook_is_that_of_its_source() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == text(), "run `make kaggle-notebook`"


def test_the_notebook_has_short_cells_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= LONGEST
    assert code[0].source.startswith("import time\n\nBEGAN = time.monotonic()")  # the clock comes first
    assert code[0].metadata.tags == ["parameters"]


def test_the_metadata_names_what_the_notebook_looks_for() -> None:
    kernel = json.loads((KAGGLE / "kernel-metadata.json").read_text())
    parameters = nbformat.read(NOTEBOOK, as_version=4).cells[1].source
    named = dict(re.findall(r'^(COMPETITION|SOLVER|WHEELS) = \[?"(.*?)"', parameters, re.MULTILINE))
    assert kernel["competition_sources"] == [named["COMPETITION"]] == [COMPETITION]
    assert kernel["dataset_sources"] == [f"USERNAME/{named['SOLVER']}"]
    assert json.loads((KAGGLE / "dataset-metadata.json").read_text())["id"] == f"USERNAME/{named['SOLVER']}"
    assert kernel["id"].partition("/")[2] == kernel["title"].lower().replace(" ", "-")  # else Kaggle answers 409
    assert kernel["enable_internet"] is False


def functions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the notebook has defined once the fallback submission is written."""
    lay_out(machine.place, machine.challenges, {}, {})
    monkeypatch.setenv("SOLVER_KAGGLE_ROOT", str(machine.place.root))
    names: dict[str, Any] = {}
    for cell in jupytext.read(SOURCE).cells:
        if cell.cell_type == "code" and "FALLBACK = " not in names.get("done", ""):
            exec(compile(cell.source, SOURCE.name, "exec"), names)
            names["done"] = cell.source
    return names


def test_fallback_answers_are_those_of_the_solver(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = load_tasks("arc1:evaluation")
    machine.challenges |= {task.id: task.without_answers().to_json() for task in real} | BROKEN
    made = functions(machine, monkeypatch)
    tasks = load_tasks(made["CHALLENGES"], "fallback")
    assert set(tasks.bad) == set(BROKEN)
    theirs = json.loads(json.dumps(submission_json(fallback_submission(tasks))))
    assert made["published"]() == made["FALLBACK"]
    for id_, answers in made["FALLBACK"].items():
        assert len(answers) == len(theirs[id_])
        assert answers == theirs[id_] or id_ in BROKEN
    assert defects(made["SUBMISSION"], tasks) == []


ANSWER = {"attempt_1": [[1, 2]], "attempt_2": [[0]]}


@pytest.mark.parametrize(
    "submission",
    [
        {"a": [ANSWER]},
        {},
        [],
        None,
        {"a": [ANSWER], "b": [ANSWER]},
        {"a": []},
        {"a": [ANSWER, ANSWER]},
        {"a": ANSWER},
        {"a": [ANSWER | {"attempt_3": [[1]]}]},
        {"a": [{"attempt_1": [[1]]}]},
        *({"a": [ANSWER | {"attempt_2": grid}]} for grid in ([], [[]], [[1], [1, 2]], [[10]], [[True]], [[1.0]], "1", [1], None)),
        {"a": [ANSWER | {"attempt_2": [[0] * 31]}]},
        {"a": [ANSWER | {"attempt_2": [[0]] * 31}]},
        {"a": [ANSWER | {"attempt_2": [[0] * 30] * 30}]},
    ],
    ids=json.dumps,
)
def test_a_submission_is_judged_as_by_the_solver(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, submission: Any
) -> None:
    machine.challenges = {"a": small_task()}
    made = functions(machine, monkeypatch)
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(submission))
    assert bool(made["flaw"](submission)) == bool(defects(path, load_tasks(made["CHALLENGES"])))
