"""Corpora in the layouts in which they are published: the same families out of each, named and grouped by their files."""

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solver.arc.datasets import load_tasks
from solver.errors import InputError
from solver.pretrain.command import corpora_digest, load_store
from solver.pretrain.corpora import MAX_PARSED_BYTES, build_store
from solver.pretrain.guard import Guard
from solver.pretrain.store import PairStore

NOBODY = Guard.against([])
PAIRS = [{"input": [[1, 2]], "output": [[2, 1]]}, {"input": [[3]], "output": [[4]]}, {"input": [[5]], "output": [[6], [7]]}]
TASK = {"train": PAIRS[:2], "test": PAIRS[2:]}
BARC = {"source": "def main(g): ...", "examples": [[[[1.0, 2.0]], [[2.0, 1.0]]], [[[3.0]], [[4]]], [[[5]], [[6.0], [7.0]]]]}


def save(path: Path, value: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding=encoding)
    return path


def read(folder: Path, lines: list[str] | None = None) -> PairStore:
    return build_of(sorted(folder.rglob("*.*")), folder, lines)


def build_of(paths: list[Path], root: Path, lines: list[str] | None = None) -> PairStore:
    return build_store(paths, NOBODY, (lines if lines is not None else []).append, {}, root)


def families(store: PairStore) -> dict[str, list[Any]]:
    return {
        name: [[grid.tolist() for grid in store.pair(index)] for index in store.family(number)]
        for number, name in enumerate(store.names)
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.json", TASK),
        ("f.json", {**TASK, "arc-gen": "nonsense", "name": 1}),
        ("f.json", PAIRS),
        ("f.json", BARC),
        ("many.json", {"f": PAIRS}),
        ("many.json", {"f": TASK}),
        ("many.json", [{"task_id": "f", **TASK}]),
        ("many.jsonl", json.dumps({"id": "f", **BARC}) + "\n\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_layout_gives_the_same_family(tmp_path: Path, name: str, content: Any, encoding: str) -> None:
    path = save(tmp_path / name, content, encoding)
    wanted = {"f": [[pair["input"], pair["output"]] for pair in PAIRS]}
    assert families(build_of([path], tmp_path)) == wanted
    packed = path.with_name(f"{name}.xz")
    packed.write_bytes(lzma.compress(path.read_bytes(), preset=0))
    assert families(build_of([packed], tmp_path)) == wanted


def test_barc_rows_are_families_named_by_their_lines(tmp_path: Path) -> None:
    save(tmp_path / "data_100k.jsonl", "\n".join(json.dumps(BARC) for _ in range(5)))
    store = load_store(tmp_path, tmp_path / "out", NOBODY, str)
    mine = [name for name, source in zip(store.names, store.sources, strict=True) if source == "data_100k"]
    assert mine == [f"data_100k-{line}" for line in range(1, 6)]


def test_re_arc_as_it_is_published(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    large = [{"input": rng.integers(0, 10, (30, 30)).tolist(), "output": [[1]]} for _ in range(700)]
    assert len(json.dumps(large)) > MAX_PARSED_BYTES
    save(tmp_path / "re_arc" / "tasks" / "00a1b2c3.json", PAIRS)
    save(tmp_path / "re_arc" / "tasks" / "00d4e5f6.json", large)
    save(tmp_path / "re_arc" / "metadata.json", {"00a1b2c3": [{"n_seconds": 0.1}]})
    save(tmp_path / "re_arc" / ".DS_Store", "\0")
    lines: list[str] = []
    store = load_store(tmp_path, tmp_path / "out", NOBODY, lines.append)
    mine = {name for name, source in zip(store.names, store.sources, strict=True) if source == "re_arc"}
    assert mine == {"00a1b2c3", "00d4e5f6"}  # one source, the folder below the corpora
    assert any(line.startswith("passed over: ") and "metadata.json: must hold tasks" in line for line in lines)
    alone = load_store(tmp_path / "re_arc", tmp_path / "out", NOBODY, str)
    assert {name for name, source in zip(alone.names, alone.sources, strict=True) if source == "tasks"} == mine


def test_concept_arc_as_it_is_published(tmp_path: Path) -> None:
    for name in ("Center/Center1", "Center/Center2", "AboveBelow/AboveBelow1"):
        save(tmp_path / "corpus" / f"{name}.json", TASK)
    before = corpora_digest(tmp_path)
    save(tmp_path / "corpus" / "Center" / "._Center1.json", "\0")
    assert corpora_digest(tmp_path) == before
    store = load_store(tmp_path, tmp_path / "out", NOBODY, str)
    assert [s for s in store.sources if s not in ("arc1", "arc2")] == ["corpus"] * 3


def test_kaggles_challenges_have_their_demonstrations(tmp_path: Path) -> None:
    hidden = {"train": PAIRS[:2], "test": [{"input": [[5]]}]}
    save(
        tmp_path / "arc-agi_training_challenges.json", {"a": hidden, "b": {**hidden, "test": [{"input": [[5]], "output": None}]}}
    )
    save(tmp_path / "arc-agi_training_solutions.json", {"a": [[[6]]], "b": [[[6]]]})
    save(tmp_path / "sample_submission.json", {"a": [{"attempt_1": [[0]], "attempt_2": [[0]]}]})
    lines: list[str] = []
    store = read(tmp_path, lines)
    wanted = [[pair["input"], pair["output"]] for pair in PAIRS[:2]]
    assert families(store) == {"a": wanted, "b": wanted}
    passed = [line for line in lines if line.startswith("passed over")]
    assert len(passed) == 2
    assert "not solutions ({id: [grid, ...]})" in passed[0]
    assert "not a submission" in passed[1]


def test_a_test_output_that_is_no_grid_costs_its_pair(tmp_path: Path) -> None:
    save(tmp_path / "f.json", {**TASK, "test": [{"input": [[5]], "output": [[6], [7, 8]]}]})
    lines: list[str] = []
    assert len(families(read(tmp_path, lines))["f"]) == 2
    assert any("family f: test pair 0 output: row 1" in line for line in lines)


def test_a_file_is_a_corpus_too(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", json.dumps({"id": "f", **TASK}))
    assert "f" in load_store(path, tmp_path / "out", NOBODY, str).names


def test_a_folder_without_corpora_says_what_it_holds(tmp_path: Path) -> None:
    save(tmp_path / "data.parquet", "PAR1")
    with pytest.raises(InputError, match=r"no \.json or \.jsonl file .*, only \.parquet"):
        load_store(tmp_path, tmp_path / "out", NOBODY, str)


def test_what_pretraining_reads_a_run_reads(tmp_path: Path) -> None:
    save(tmp_path / "re_arc" / "tasks" / "a.json", PAIRS)
    save(tmp_path / "concept" / "Center" / "b.json", TASK)
    save(tmp_path / "many.json", {"c": PAIRS, "d": TASK})
    save(tmp_path / "barc.jsonl", json.dumps(BARC))
    save(tmp_path / "rows.json", [{"task_id": "e", **TASK}])
    tasks = load_tasks(tmp_path)
    assert set(families(read(tmp_path))) == set(tasks.ids) == {"a", "b", "c", "d", "e", "barc-1"}
    assert len({str(task.to_json()) for task in tasks}) == 1  # the last pair of a family is its test
