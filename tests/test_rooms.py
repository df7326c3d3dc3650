"""Imports between rooms point downward, those inside functions and for types alone included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import solver

ROOT = Path(solver.__file__).parent

# From the top down. A room imports from those below it; of two on one line neither imports the other.
LEVELS = (
    ("__main__",),
    ("cli", "cli_budget", "cli_math", "cli_model", "cli_pretrain", "cli_reproduce", "cli_show", "cli_verify"),
    ("cli_options",),
    ("commands",),
    ("math", "experiments"),
    ("run", "worker", "pretrain"),
    ("verify",),
    ("report",),
    ("train", "infer", "budget", "programs"),
    ("model",),
    ("codec",),
    ("prompt_format",),
    ("types", "messages", "config", "errors", "host", "child_process", "textfile", "file_lock"),
    ("arc",),
)
COMMON = LEVELS[-2]  # what every room may import
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every module of ours that a source imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "solver":
            yield from ((node.lineno, f"solver.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("solver."):
            yield node.lineno, node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("solver."))


def upward(module: str, text: str) -> list[str]:
    """The imports of a module that do not point downward."""
    room = room_of(module)
    found = []
    for line, name in imported(text):
        other = room_of(name)
        allowed = other == room or LEVEL[other] > LEVEL[room] or other in COMMON
        if room == "cli":
            allowed = allowed or LEVEL[other] == LEVEL[room]  # it gathers the other files of verbs
        if not allowed:
            found.append(f"{module}:{line} imports {name}")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    module = ".".join(("solver", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    assert module == "solver" or room_of(module) in LEVEL, f"{module}: a room that LEVELS does not know"
    if module != "solver":
        assert upward(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("solver.arc.grid", "from solver.codec import Codec"),
        ("solver.report.live", "if True:\n    from solver.run.types import RunOptions"),
        ("solver.worker.main", "from solver.run import ledger"),
        ("solver.run.supervisor", "import solver.commands.rehearse"),
        ("solver.infer.hf", "def f():\n    from solver.train import registry"),
    ],
)
def test_an_import_upward_or_sideways_is_found(module: str, line: str) -> None:
    assert len(upward(module, line)) == 1
