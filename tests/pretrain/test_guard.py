"""The guard recognises evaluation pairs in any orientation and colours, and nothing else."""

import itertools
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.datasets import load_tasks
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, View
from solver.errors import InputError
from solver.pretrain.command import load_store
from solver.pretrain.corpora import MAX_PARSED_BYTES, build_store
from solver.pretrain.guard import Guard, canonical_key, held_out, invariant_key


@st.composite
def grids(draw: st.DrawFn) -> np.ndarray:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.integers(0, 9), min_size=rows * columns, max_size=rows * columns))
    return np.array(cells, dtype=np.uint8).reshape(rows, columns)


pairs = st.builds(Pair, grids(), grids())
views = st.builds(View, st.sampled_from(TRANSFORMS), st.permutations(range(10)).map(tuple))


def seen_through(view: View, pair: Pair) -> Pair:
    assert pair.output is not None
    return Pair(view.apply_grid(pair.input), view.apply_grid(pair.output))


def pairs_json(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [*Task("", tuple(pairs), ()).to_json()["train"]]


@given(pairs, views)
def test_keys_are_the_same_under_every_view(pair: Pair, view: View) -> None:
    assert canonical_key(seen_through(view, pair)) == canonical_key(pair)
    assert invariant_key(seen_through(view, pair)) == invariant_key(pair)


@given(pairs)
def test_turning_the_output_alone_gives_another_pair(pair: Pair) -> None:
    assert pair.output is not None
    grown = Pair(pair.input, np.pad(pair.output, ((0, 1), (0, 0)), mode="edge"))
    assert canonical_key(grown) != canonical_key(pair)


def test_a_planted_evaluation_task_is_barred_by_id_and_by_content(tmp_path: Path) -> None:
    evaluation = load_tasks("arc1:evaluation").tasks[:20]
    clean = load_tasks("arc1:training").tasks[0]
    guard = Guard.against(evaluation)
    disguised = View("rot90", (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)).apply(evaluation[7])
    corpus = {
        evaluation[3].id: clean.to_json(),  # the id of an evaluation task, other content
        f"made-for-{evaluation[4].id}": clean.to_json(),
        "innocent-name": disguised.to_json(),  # its content under another name
        "clean": clean.to_json(),
        "pool": pairs_json([*clean.train, *clean.test] * 6 + [disguised.train[0]] * 2),
        "generator": pairs_json([*clean.train, *clean.test] * 6 + [*disguised.train[:2]]),
    }
    path = tmp_path / "planted.json"
    path.write_text(json.dumps(corpus))
    lines: list[str] = []
    store = build_store([path], guard, lines.append, {"again": [disguised, clean]})
    assert sorted(store.names) == sorted(["clean", "pool", clean.id])
    assert len(store.family(store.names.index("pool"))) == 6 * len([*clean.train, *clean.test])
    assert not any(guard.bars_pair(Pair(*store.pair(i))) for i in range(len(store.pairs)))
    assert any(
        f"barred 4 families ({evaluation[3].id}, made-for-{evaluation[4].id}, innocent-name, generator)" in line for line in lines
    )


@pytest.mark.parametrize(
    ("name", "barred"),
    [
        ("00576224", True),
        ("task_00576224-v2", True),
        ("re-arc/00576224", True),
        ("00576224.json", True),
        ("007BBFB7", True),
        ("100576224", False),
        ("00576225", False),
        ("", False),
    ],
)
def test_families_named_after_an_evaluation_task_are_barred(name: str, barred: bool) -> None:
    guard = Guard(frozenset({"00576224", "007bbfb7"}), frozenset(), frozenset())
    assert guard.bars_name(name) == barred


@pytest.mark.parametrize(("name", "whole"), [("00576224.json.xz", True), ("00576224.json.xz", False), ("00576224.json", True)])
def test_a_packed_or_large_task_file_has_the_name_of_its_task(name: str, whole: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grids = [rng.integers(0, 10, (30, 30)).tolist() for _ in range(200)]
    task = {"train": [{"input": one, "output": two} for one, two in itertools.pairwise(grids)]}
    task |= {"test": task["train"][:1]} if whole else {}
    text = json.dumps(task).encode()
    assert len(text) > MAX_PARSED_BYTES
    path = tmp_path / name
    path.write_bytes(lzma.compress(text, preset=0) if name.endswith("xz") else text)
    lines: list[str] = []
    assert build_store([path], Guard(frozenset({"00576224"}), frozenset(), frozenset()), lines.append, {}).names == ()
    assert any("barred 1 families (00576224)" in line for line in lines)
    assert build_store([path], Guard.against([]), str, {}).names == ("00576224",)


def test_the_public_training_sets_lose_their_evaluation_tasks() -> None:
    guard = Guard.against(load_tasks("arc1:evaluation"))
    tasks = list(load_tasks("arc2:training"))
    store = build_store([], guard, str, {"arc2": tasks})
    assert not {*store.names} & guard.ids
    assert len({task.id for task in tasks} & guard.ids) == 376  # the leak that the guard closes
    assert 0 < len(store.names) <= len(tasks) - 376


def test_held_out_is_a_fixed_twentieth() -> None:
    share = np.mean([held_out(f"family-{i}") for i in range(4000)])
    assert 0.04 < share < 0.06
    assert held_out("007bbfb7") == held_out("007bbfb7")


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[]", "holds no tasks"),
        ("a.jsonl", b'{"examples": []}\n{"exam', "line 2: not valid JSON"),
        ("a.json.xz", b"no xz", "truncated or not xz"),
        ("a.json.xz", lzma.compress(b'{"f": []}')[:-20], "truncated or not xz"),
        ("a.json", b'{"f": [{"input": [[1]], "output": [[2]]}', "not valid JSON.*cut off"),
        ("a.json", b'{"f": [{"input": [[1]], "output": "?"}], "g": 3}', "no family of it holds grids"),
        ("a.json", b'{"questions": [{"text": "2 + 2"}], "numbers": 7, "words": "abc"}', "an object with the keys 'questions'"),
        ("a.json", b"{}", "holds no tasks"),
    ],
)
def test_bad_corpus_files_are_named(tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted) as caught:
        build_store([path], Guard.against([]), print, {})
    assert str(path) in str(caught.value)


def test_bad_families_are_skipped_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = [{"input": [[1]], "output": [[2]]}, {"input": [[1, 2]], "output": [[2]]}]
    path.write_text(json.dumps({"good": good, "ragged": [{"input": [[1], [1, 2]], "output": [[1]]}]}))
    lines: list[str] = []
    store = build_store([path], Guard.against([]), lines.append, {})
    assert store.names == ("good",)
    assert any("ragged" in line and "row 1" in line for line in lines)


def test_families_too_short_for_a_sequence_are_not_called_barred(tmp_path: Path) -> None:
    pair = {"input": [[1]], "output": [[2]]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"good": [pair, pair], "one": [pair], "none": []}))
    lines: list[str] = []
    assert build_store([path], Guard.against([]), lines.append, {}).names == ("good",)
    assert lines == [
        "a: 1 families, 2 pairs; barred 0 families and 0 pairs",
        "a: skipped 2 families (one, none) with fewer than two pairs",
    ]


def test_a_corpus_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "lost.json").symlink_to(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match=r"lost\.json: cannot read the corpus: No such file"):
        load_store(tmp_path, tmp_path / "out", Guard.against([]), print)


def test_a_pair_of_a_guarded_task_is_barred_and_no_other() -> None:
    pair = Pair(np.ones((2, 2), np.uint8), np.zeros((1, 2), np.uint8))
    guard = Guard.against([Task("t", (pair,), ())])
    assert guard.bars_pair(pair)
    assert not guard.bars_pair(Pair(pair.input, np.zeros((2, 2), np.uint8)))


def test_folders_of_task_files_are_corpora_named_as_the_folder(tmp_path: Path) -> None:
    tasks = load_tasks("arc1:training").tasks[:4]
    evaluation = load_tasks("arc1:evaluation").tasks[0]
    corpus = tmp_path / "corpus"
    (corpus / "mine").mkdir(parents=True)
    for task in tasks[:3]:
        (corpus / "mine" / f"{task.id}.json").write_text(json.dumps(task.to_json()))
    (corpus / "mine" / "disguised.json").write_text(json.dumps(evaluation.to_json()))
    (corpus / "mine" / "ragged.json").write_text(json.dumps({"train": [{"input": [[1], [1, 2]], "output": [[1]]}], "test": []}))
    (corpus / "many.json").write_text(json.dumps({tasks[3].id: tasks[3].to_json()}))
    lines: list[str] = []
    store = load_store(corpus, tmp_path / "out", Guard.against([evaluation]), lines.append)
    mine = {name for name, source in zip(store.names, store.sources, strict=True) if source == "mine"}
    assert mine == {task.id for task in tasks[:3]}
    assert "many" in store.sources
    assert any(line.startswith("mine: 3 families") and "barred 1 families (disguised)" in line for line in lines)
    assert any("ragged" in line for line in lines)


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    (corpus / "a.json").write_text(
        json.dumps({load_tasks("arc1:training").tasks[0].id: load_tasks("arc1:training").tasks[0].to_json()})
    )
    whole = load_store(corpus, out, Guard.against([]), str)
    (cache,) = out.glob("corpus-*.npz")
    content = cache.read_bytes()
    lines: list[str] = []
    for damaged in (content[:-500], content[:200] + bytes(200) + content[400:], b""):
        cache.write_bytes(damaged)
        lines.clear()
        again = load_store(corpus, out, Guard.against([]), lines.append)
        assert again.names == whole.names
        assert f"{cache}: the cache is damaged and is made again" in lines
        assert not list(out.glob(".partial*"))
    lines.clear()
    load_store(corpus, out, Guard.against([]), lines.append)
    assert lines == [f"corpus from the cache {cache}"]


def test_corpora_packed_behind_another_guard_are_not_used(tmp_path: Path) -> None:
    task, other = load_tasks("arc1:training").tasks[:2]
    (tmp_path / "a.json").write_text(json.dumps({"x": task.to_json(), "y": other.to_json()}))
    assert "x" in load_store(tmp_path, tmp_path / "out", Guard.against([]), str).names
    for guarded in (Task("other-id", task.train, ()), Task("x", (), ())):
        store = load_store(tmp_path, tmp_path / "out", Guard.against([guarded]), str)
        assert "x" not in store.names
        assert "y" in store.names
