"""RE-ARC by the generators of the real reasoning-gym, which the locked environment keeps aside (requirements/reference.txt)."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks
from solver.cli import app
from solver.errors import InputError
from solver.pretrain import rearc
from solver.pretrain.command import load_store
from solver.pretrain.guard import Guard
from solver.pretrain.rearc import draw_pairs, load_generators, make_rearc

REFERENCE = Path(sys.prefix) / "reference"
PARTS = f"{rearc.__name__}_utils"
DRAW = """
from random import Random
from solver.pretrain.rearc import draw_pairs, load_generators
known = load_generators()
print([draw_pairs(*known[name], Random(f"0/{name}"), 2) for name in ("007bbfb7", "6855a6e4", "a8d7556c", "b230c067")])
"""


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REFERENCE))


@pytest.mark.usefixtures("reference")
def test_there_is_a_generator_for_every_training_task() -> None:
    assert sorted(load_generators()) == sorted(task.id for task in load_tasks("arc1:training"))
    assert "reasoning_gym" not in sys.modules  # its other parts want other packages


@pytest.mark.usefixtures("reference")
def test_the_verifier_solves_the_real_task_and_what_is_drawn() -> None:
    task = next(task for task in load_tasks("arc1:training") if task.id == "00d62c1b")
    generate, verify = load_generators()[task.id]
    for pair in task.train:
        assert pair.output is not None
        assert [list(row) for row in verify(tuple(map(tuple, pair.input.tolist())))] == pair.output.tolist()
    found = draw_pairs(generate, verify, Random(0), 5)
    assert len({json.dumps(pair["input"]) for pair in found}) == 5
    assert not draw_pairs(generate, lambda shown: shown, Random(0), 5)  # another rule agrees with none


def test_generators_that_fail_or_repeat_themselves_cost_tries_alone() -> None:
    calls = 0

    def generate(rng: Random, low: float, high: float) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise IndexError
        size = 31 if calls % 3 == 1 else rng.randint(1, 2)
        return {"input": ((1,) * size,), "output": ((2,) * size,)}

    found = draw_pairs(generate, lambda shown: tuple(tuple(2 for _ in row) for row in shown), Random(0), 5)
    assert sorted(len(pair["input"][0]) for pair in found) == [1, 2]
    assert calls == rearc.TRIES * 5


def test_pairs_are_functions_of_seed_and_family_alone() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", DRAW],
            env={**os.environ, "PYTHONPATH": str(REFERENCE), "PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    ]
    assert len(printed[0]) > 1000
    assert printed[0] == printed[1]


@pytest.mark.slow
@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", ["rearc.json", "rearc.json.xz"])
def test_the_command_writes_a_corpus_that_pretrain_reads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_generators()
    few = {task: known[task] for task in sorted(known)[:5]}
    monkeypatch.setattr(rearc, "load_generators", lambda: few)
    out = tmp_path / "corpora" / name
    result = CliRunner().invoke(app, ["make-corpus", "rearc", str(out), "--pairs", "6", "--processes", "1"])
    assert result.exit_code == 0, result.output
    assert "5 of 5 families, 30 pairs" in result.output
    raw = out.read_bytes()
    written = json.loads(lzma.decompress(raw) if name.endswith("xz") else raw)
    assert {task: len(pairs) for task, pairs in written.items()} == dict.fromkeys(few, 6)
    lines: list[str] = []
    store = load_store(out.parent, tmp_path / "cache", Guard.against([]), lines.append)
    assert sum(source == "rearc" for source in store.sources) == 5
    assert [file.name for file in out.parent.iterdir()] == [name]  # nothing partial is left


def test_without_reasoning_gym_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, PARTS, raising=False)
    result = CliRunner().invoke(app, ["make-corpus", "rearc", str(tmp_path / "rearc.json")])
    assert result.exit_code == 2
    assert "pip install --no-deps reasoning-gym" in result.output


@pytest.mark.parametrize("name", ["", "folder.json", "rearc", "rearc.xz", "rearc.csv"])
def test_what_pretrain_would_not_read_is_refused_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match=r"a corpus is a file, \.json or \.json\.xz") as caught:
        make_rearc(tmp_path / name, 2, 0, 1, print)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.usefixtures("reference")
def test_a_corpus_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_generators()
    monkeypatch.setattr(rearc, "load_generators", lambda: {"007bbfb7": known["007bbfb7"]})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"rearc\.json: cannot be written"):
        make_rearc(tmp_path / "file" / "rearc.json", 2, 0, 1, print)
