"""A Kaggle machine for the tests of the notebook: its folders, a stand-in for the solver, bundles of wheels, and tasks."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "kaggle"))  # not a package: its name is that of Kaggle's own client

from rehearse import SOLVER, WHEELS, Place, Rehearsal, lay_out, rehearse  # noqa: E402

from solver.arc.datasets import load_tasks  # noqa: E402
from solver.arc.submission import defects  # noqa: E402

SECONDS = 30  # of a notebook whose solver ends early
LATE = 30  # seconds that a busy machine may add


def small_task(tests: int = 1) -> dict[str, Any]:
    """A task as Kaggle has it, without answers."""
    grid = [[1, 2], [3, 4]]
    return {"train": [{"input": grid, "output": [[4, 3], [2, 1]]}] * 2, "test": [{"input": grid}] * tests}


BROKEN: dict[str, Any] = {
    "no task": 7,
    "no tests": {"train": small_task()["train"]},
    "a cell of 10": {"train": [{"input": [[10]], "output": [[1]]}], "test": [{"input": [[1, 10]]}, {"input": [[1]]}]},
    "no grids": {"train": [None], "test": [{"input": "a"}]},
    "demonstrations alone": {"train": [{"input": [[1]], "output": [[2, 2], [2]]}], "test": []},
}


class Machine:
    """A Kaggle machine in a folder."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder / "machine")
        self.faults = folder / "faults"
        self.faults.mkdir()
        self.challenges: dict[str, Any] = {"aaaaaaaa": small_task(), "bbbbbbbb": small_task(2)}
        self.solutions: dict[str, Any] = {}
        self.plan: dict[str, Any] = {}
        self._parts = folder / "parts"

    def attach_solver(self, padding: int = 0) -> Path:
        """The data set with a wheel of the stand-in, which holds so many bytes more. Gives the wheel."""
        wheel = self.place.folder("datasets", SOLVER) / "solver-0.0.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as packed:
            packed.writestr("solver/padding", bytes(padding))
            packed.writestr("solver/__init__.py", "")
            packed.write(HERE / "stand_in.py", "solver/__main__.py")
        return wheel

    def attach_wheels(self, vllm: str = "", **report: Any) -> None:
        """A data set of wheels. Its installer ends with this report, and gives a vllm of this source."""
        folder = self.place.folder("datasets", WHEELS)
        (folder / "vllm.txt").write_text(vllm)
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "install.py").write_text((HERE / "stand_in_install.py").read_text())

    def run(self, environment: Mapping[str, str] | None = None, python: str = sys.executable, **parameters: Any) -> Rehearsal:
        """Run the notebook."""
        (self.faults / "plan.json").write_text(json.dumps(self.plan))
        lay_out(self.place, self.challenges, self.solutions, {})
        parameters = {"FIRST_RUN": SECONDS, **parameters}
        variables = {"SOLVER_FAULTS": str(self.faults), **(environment or {})}
        return rehearse(self.place, parameters, python, variables, parameters["FIRST_RUN"])

    def calls(self, command: str) -> list[dict[str, Any]]:
        """The calls of a command of the stand-in: `argv` and `path`."""
        calls = self.faults / "calls.jsonl"
        every = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        return [call for call in every if call["argv"][0] == command]

    def options(self, number: int = -1) -> dict[str, str]:
        """The options of a run, by name."""
        argv = self.calls("run")[number]["argv"]
        return dict(zip(argv[2::2], argv[3::2], strict=True))

    def assert_good(self, done: Rehearsal, seconds: float = SECONDS) -> None:
        """The notebook ended successfully and in time, with a complete valid submission and nothing else but logs."""
        assert done.error == "", done.text
        challenges = next((self.place.root / "kaggle/input").rglob("*test_challenges*.json"))
        assert defects(done.working / "submission.json", load_tasks(challenges, "fallback")) == [], done.text
        assert set(done.left) <= {"logs", "submission.json"}, done.text
        assert list((self.place.root / "tmp").iterdir()) == [], done.text
        assert done.seconds < seconds + LATE, done.text

    def solved(self, done: Rehearsal) -> bool:
        """Whether the submission holds the stand-in's answers to all tasks."""
        return all(entry["attempt_1"] == [[7]] for entries in done.submission.values() for entry in entries)
