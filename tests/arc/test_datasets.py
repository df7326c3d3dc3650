"""Reading tasks and solutions: every source gives the same tasks, every flaw one line that says where it is."""

import json
import lzma
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solver.arc.datasets import (
    NAMED_SETS,
    TaskSet,
    load_solutions,
    load_tasks,
    load_usable_solutions,
    pick_tasks,
    sample_tasks,
    shortest_tasks,
)
from solver.errors import InputError

PAIR = {"input": [[1, 2], [3, 4]], "output": [[5]]}
TASK = {"train": [PAIR, {"input": [[6]], "output": [[7, 8]]}], "test": [{"input": [[9]]}, {"input": [[0, 0]]}]}


def save(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def refusal(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_tasks(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def broken(part: str, index: int, side: str, grid: Any) -> dict[str, Any]:
    task = json.loads(json.dumps(TASK))
    task[part][index][side] = grid
    return task


def test_challenges_file_task_file_and_folder_give_the_same_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    one = save(folder / "abc.json", TASK)
    save(folder / "def.json", TASK)
    save(folder / "notes.txt", "not a task")
    whole = load_tasks(save(tmp_path / "challenges.json", {"abc": TASK, "def": TASK}))
    assert whole.tasks == load_tasks(folder).tasks
    assert whole.tasks[:1] == load_tasks(one).tasks
    assert whole.test_counts == {"abc": 2, "def": 2}
    assert whole.tasks[0].train[1].output is not None
    assert whole.tasks[0].train[1].output.tolist() == [[7, 8]]
    assert [pair.output for pair in whole.tasks[0].test] == [None, None]
    assert len(whole) == 2
    assert list(whole) == list(whole.tasks)


@pytest.mark.parametrize(
    ("name", "tasks", "tests"), [("arc1:training", 400, 416), ("arc1:evaluation", 400, 419), ("arc2:evaluation", 120, 167)]
)
def test_public_sets_by_name(name: str, tasks: int, tests: int) -> None:
    found = load_tasks(name)
    assert len(found) == tasks
    assert sum(found.test_counts.values()) == tests
    assert load_solutions(name, found).keys() == found.test_counts.keys()
    assert all(pair.output is not None for task in found for pair in task.test)


def test_arc2_training_is_there() -> None:
    assert len(load_tasks("arc2:training")) == 1000


def test_public_task_by_hand() -> None:
    task = load_tasks("arc1:training").by_id["007bbfb7"]
    assert task.train[0].input.tolist() == [[0, 7, 7], [7, 7, 7], [0, 7, 7]]
    assert task.test[0].output is not None
    assert task.test[0].output.shape == (9, 9)


def test_unknown_set_lists_the_known() -> None:
    assert all(name in refusal("arc3:training") for name in NAMED_SETS)


# --- files that cannot be used as a whole


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.json") == f"{tmp_path / 'no.json'}: cannot read the task file: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = save(tmp_path / "secret.json", {"abc": TASK})
    path.chmod(0)
    assert "Permission denied" in refusal(path)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    assert (
        refusal(tmp_path / "x.json")
        == f"{tmp_path / 'x.json'}: the folder holds no .json or .jsonl file (packed as .xz or not), nor any other file"
    )


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\x80\xfe{}")
    assert "not UTF-8 text" in refusal(tmp_path / "x.json")


def test_folder_without_tasks(tmp_path: Path) -> None:
    save(tmp_path / "data.parquet", "PAR1")
    save(tmp_path / ".hidden.json", json.dumps(TASK))
    assert "holds no .json or .jsonl file (packed as .xz or not), only .parquet" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    assert "the task file is empty" in refusal(save(tmp_path / "x.json", text))


def test_not_json_names_line_and_column(tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "x.json", '{"abc":\n  train}'))
    assert message.startswith(f"{tmp_path / 'x.json'}: not valid JSON at line 2, column 3")
    assert "cut off" not in message


def test_truncated_json_says_so_wherever_it_is_cut(tmp_path: Path) -> None:
    text = json.dumps({"abc": TASK}, indent=1)
    for end in range(1, len(text), 7):
        message = refusal(save(tmp_path / "x.json", text[:end]))
        last, after_space = (part.count("\n") + 1 for part in (text[:end].rstrip(), text[:end]))
        assert f"at line {last}, column" in message or f"at line {after_space}, column" in message, text[:end]
        assert "cut off" in message, text[:end]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"abc": ' + "1" * 5000 + "}"])
def test_absurd_json(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "x.json") in refusal(save(tmp_path / "x.json", text))


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("x", "a string"),
        (3, "a number"),
        (None, "null"),
        (True, "a boolean"),
        ([[1]], "not a list that begins with a list"),
        ({"abc": [[[1]]]}, "solutions ({id: [grid, ...]})"),
        ({"abc": [{"attempt_1": [[1]], "attempt_2": [[2]]}]}, "a submission ({id: [{attempt_1, attempt_2}, ...]})"),
        ({"abc": [{"n_seconds": 0.1}], "def": []}, "an object with the keys 'abc', 'def'"),
    ],
)
def test_a_file_of_another_form_is_refused_by_its_form(tmp_path: Path, value: Any, form: str) -> None:
    assert form in refusal(save(tmp_path / "x.json", json.dumps(value)))


@pytest.mark.parametrize("value", [{}, []])
def test_empty_set(tmp_path: Path, value: Any) -> None:
    assert refusal(save(tmp_path / "x.json", json.dumps(value))) == f"{tmp_path / 'x.json'}: holds no tasks"


# --- flaws of one task


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"test": TASK["test"]}, "has no train pairs"),
        ({"train": [], "test": TASK["test"]}, "has no train pairs"),
        ({"train": TASK["train"]}, "has no test pairs"),
        ({"train": TASK["train"], "test": []}, "has no test pairs"),
        ({"train": {"0": PAIR}, "test": TASK["test"]}, "train must be a list of pairs, not an object"),
        ({"train": [[]], "test": TASK["test"]}, "train pair 0 must be an object with input and output, not a list"),
        ({"train": [PAIR, {"input": [[1]]}], "test": TASK["test"]}, "train pair 1 has no output"),
        ({"train": [PAIR], "test": [{"output": [[1]]}]}, "test pair 0 has no input"),
        ([], "a task must be an object with train and test, not a list"),
        (broken("train", 1, "output", [[1, 2], [3]]), "train pair 1 output: row 1 has 1 cells, row 0 has 2"),
        (broken("train", 0, "input", []), "train pair 0 input: the grid is empty"),
        (broken("train", 0, "input", [[]]), "train pair 0 input: row 0 is empty"),
        (broken("test", 1, "input", [[0]] * 31), "test pair 1 input: the grid has 31 rows, at most 30 are allowed"),
        (broken("train", 0, "output", [[0] * 31]), "train pair 0 output: row 0 has 31 columns, at most 30 are allowed"),
        (
            broken("train", 0, "input", [[1, 2], [3, 4.0]]),
            "train pair 0 input: cell (row 1, column 1) is 4.0",
        ),
        (broken("train", 0, "input", [["1"]]), "train pair 0 input: cell (row 0, column 0) is '1'"),
        (broken("train", 0, "input", [[True]]), "train pair 0 input: cell (row 0, column 0) is True"),
        (broken("test", 0, "input", [[-1]]), "test pair 0 input: cell (row 0, column 0) is -1"),
        (broken("train", 0, "input", [[0, 10]]), "train pair 0 input: cell (row 0, column 1) is 10"),
        (broken("train", 0, "input", [[None]]), "train pair 0 input: cell (row 0, column 0) is None"),
        (
            broken("train", 0, "input", [[math.nan]]),
            "train pair 0 input: cell (row 0, column 0) is nan",
        ),
    ],
)
def test_flawed_task_is_refused_or_set_aside(tmp_path: Path, task: Any, message: str) -> None:
    path = save(tmp_path / "x.json", {"good": TASK, "abc": task})
    assert refusal(path).startswith(f"{path}: task abc: {message}")
    found = load_tasks(path, on_bad_task="fallback")
    assert [t.id for t in found.tasks] == ["good"]
    assert found.ids == ("good", "abc")
    assert found.bad["abc"].message == refusal(path)


def test_one_task_file_is_refused_alike(tmp_path: Path) -> None:
    path = save(tmp_path / "abc.json", broken("train", 0, "input", [[11]]))
    assert refusal(path).startswith(f"{path}: task abc: train pair 0 input: cell (row 0, column 0) is 11")


def test_a_bad_task_keeps_its_number_of_tests(tmp_path: Path) -> None:
    bad = {"a": {"train": [], "test": [1, 2, 3]}, "b": {"train": []}, "c": 5, "d": {"train": [], "test": []}}
    found = load_tasks(save(tmp_path / "x.json", bad), on_bad_task="fallback")
    assert found.test_counts == {"a": 3, "b": 1, "c": 1, "d": 1}


def test_an_unreadable_file_of_a_folder_is_one_bad_task(tmp_path: Path) -> None:
    save(tmp_path / "a.json", TASK)
    save(tmp_path / "b.json", '{"train": [')
    assert str(tmp_path / "b.json") in refusal(tmp_path)
    found = load_tasks(tmp_path, on_bad_task="fallback")
    assert found.test_counts == {"a": 2, "b": 1}
    with pytest.raises(InputError, match="cut off"):
        load_tasks(tmp_path / "b.json", on_bad_task="fallback")


# --- ids that come twice


@pytest.mark.parametrize("mode", ["error", "fallback"])
def test_the_same_id_in_two_files(tmp_path: Path, mode: Any) -> None:
    save(tmp_path / "a.json", TASK)
    save(tmp_path / "set.json", {"a": TASK})
    with pytest.raises(InputError, match="task a: the id is also in"):
        load_tasks(tmp_path, mode)


def test_the_same_id_twice_in_one_file(tmp_path: Path) -> None:
    text = f'{{"abc": {json.dumps(TASK)}, "def": {json.dumps(TASK)}, "abc": {json.dumps(TASK)}}}'
    path = save(tmp_path / "x.json", text)
    assert refusal(path) == f"{path}: task abc: the id occurs more than once in this file"
    found = load_tasks(path, on_bad_task="fallback")
    assert found.test_counts == {"abc": 2, "def": 2}
    assert set(found.bad) == {"abc"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": [], "test": [], "train": []}', "the task has the key 'train' more than once"),
        (
            '{"train": [{"input": [[1]], "input": [[2]], "output": [[1]]}], "test": [{"input": [[1]]}]}',
            "train pair 0 has the key 'input'",
        ),
    ],
)
def test_the_same_key_twice_in_one_task(tmp_path: Path, text: str, message: str) -> None:
    assert f"task abc: {message}" in refusal(save(tmp_path / "abc.json", text))


# --- solutions


def challenges(tmp_path: Path) -> TaskSet:
    return load_tasks(save(tmp_path / "c.json", {"abc": TASK, "def": {**TASK, "test": TASK["test"][:1]}}))


def test_kaggle_solutions(tmp_path: Path) -> None:
    path = save(tmp_path / "s.json", {"abc": [[[1]], [[2, 3]]], "def": [[[4]]]})
    found = load_solutions(path, challenges(tmp_path))
    assert [[np.asarray(g).tolist() for g in grids] for grids in found.values()] == [[[[1]], [[2, 3]]], [[[4]]]]
    assert found.keys() == load_solutions(path).keys()


def test_solutions_from_tasks_that_hold_them(tmp_path: Path) -> None:
    solved = broken("test", 0, "output", [[3]])
    solved["test"][1]["output"] = [[4]]
    found = load_solutions(save(tmp_path / "abc.json", solved))
    assert [grid.tolist() for grid in found["abc"] if grid is not None] == [[[3]], [[4]]]
    with pytest.raises(InputError, match="holds no test outputs"):
        load_solutions(save(tmp_path / "abc.json", TASK))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"abc": [[[1]], [[2]]]}, "task def: has no solutions"),
        ({"abc": [[[1]], [[2]]], "def": [[[1]]], "ghi": [[[1]]]}, "task ghi: is not among the tasks of"),
        ({"abc": [[[1]]], "def": [[[1]]]}, "task abc: has 1 outputs, but .* has 2 test inputs"),
        ({"abc": [[[1]], [[2]], [[3]]], "def": [[[1]]]}, "task abc: has 3 outputs"),
        ({"abc": [[[1]], [[2], [3, 4]]], "def": [[[1]]]}, "task abc: test pair 1 output: row 1 has 2 cells"),
        ({"abc": [], "def": [[[1]]]}, "task abc: has no outputs"),
        ({"abc": [[[1]], [[2]]], "def": 3}, "task def: its solutions must be a list of grids, not a number"),
        ([], "holds no tasks"),
        ({}, "holds no tasks"),
    ],
)
def test_solutions_that_do_not_match(tmp_path: Path, value: Any, message: str) -> None:
    path = save(tmp_path / "s.json", value)
    with pytest.raises(InputError, match=message) as caught:
        load_solutions(path, challenges(tmp_path))
    assert str(path) in str(caught.value)


def test_solutions_with_an_id_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task abc: the id occurs more than once"):
        load_solutions(save(tmp_path / "s.json", '{"abc": [[[1]]], "abc": [[[1]]]}'))


def test_missing_solutions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_solutions(tmp_path / "s.json")


# --- picking and fingerprints


def test_picking_tasks(tmp_path: Path) -> None:
    whole = load_tasks(save(tmp_path / "x.json", dict.fromkeys(("c", "00576224", "a", "b"), TASK)))
    assert pick_tasks(whole, "2").ids == ("c", "00576224")
    assert pick_tasks(whole, "99").ids == whole.ids
    assert pick_tasks(whole, "b, c").ids == ("c", "b")
    assert pick_tasks(whole, "00576224").ids == ("00576224",)
    for spec, message in [("0", "give at least 1"), ("a,x", "has no task x"), (",", "give a number"), ("-1", "no task -1")]:
        with pytest.raises(InputError, match=message):
            pick_tasks(whole, spec)


def test_picking_keeps_bad_tasks(tmp_path: Path) -> None:
    whole = load_tasks(save(tmp_path / "x.json", {"a": TASK, "b": 3, "c": TASK}), on_bad_task="fallback")
    picked = pick_tasks(whole, "2")
    assert picked.test_counts == {"a": 2, "b": 1}
    assert set(picked.bad) == {"b"}


def test_the_sample_depends_on_ids_alone() -> None:
    whole = load_tasks("arc1:evaluation")
    sample = sample_tasks(whole, 40)
    backwards = TaskSet("x", whole.tasks[::-1])
    assert set(sample_tasks(backwards, 40).ids) == set(sample.ids)
    assert set(sample_tasks(whole, 10).ids) < set(sample.ids)


def test_fingerprint_sees_tasks_but_not_answers_or_order(tmp_path: Path) -> None:
    whole = challenges(tmp_path)
    assert whole.fingerprint == TaskSet("other", whole.tasks[::-1]).fingerprint
    solved = broken("test", 0, "output", [[3]])
    same = load_tasks(save(tmp_path / "d.json", {"abc": solved, "def": {**TASK, "test": TASK["test"][:1]}}))
    assert same.fingerprint == whole.fingerprint
    others = [
        pick_tasks(whole, "1"),
        load_tasks(save(tmp_path / "e.json", {"abc": TASK, "ghi": {**TASK, "test": TASK["test"][:1]}})),
        load_tasks(save(tmp_path / "f.json", {"abc": broken("train", 0, "input", [[1, 2], [3, 5]]), "def": TASK})),
        load_tasks(save(tmp_path / "g.json", {"abc": TASK, "def": TASK})),
        load_tasks(save(tmp_path / "h.json", {"abc": TASK, "def": 3}), on_bad_task="fallback"),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_the_shortest_tasks_are_no_longer_than_the_others() -> None:
    whole = load_tasks("arc1:evaluation")
    short = shortest_tasks(whole, 60)
    assert len(short) == 60
    longest = max(task.grid_tokens() for task in short)
    assert all(task.grid_tokens() >= longest for task in whole if task.id not in short.by_id)


# --- one reader for every layout


TWO_PAIRS = {"train": [PAIR, {"input": [[6]], "output": [[7, 8]]}], "test": [{"input": [[9]], "output": [[0]]}]}
FAMILY = [*TWO_PAIRS["train"], *TWO_PAIRS["test"]]
BARC = {
    "source": "def main(g): ...",
    "examples": [[[[1.0, 2.0], [3.0, 4.0]], [[5.0]]], [[[6]], [[7, 8.0]]], [[[9]], [[0.0]]]],
    "seeds": ["x"],
}


def lines(*rows: Any) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.json", json.dumps({"abc": TWO_PAIRS})),
        ("set.json", json.dumps({"abc": FAMILY})),
        ("set.json", json.dumps({"abc": BARC})),
        ("abc.json", json.dumps({**TWO_PAIRS, "arc-gen": [{"input": "nonsense"}], "name": None})),
        ("abc.json", json.dumps(FAMILY)),
        ("abc.json", json.dumps(BARC)),
        ("rows.json", json.dumps([{"task_id": "abc", **TWO_PAIRS}])),
        ("rows.json", json.dumps([{"id": "", "name": "abc", **BARC}])),
        ("rows.jsonl", lines({"task_id": "abc", **TWO_PAIRS})),
        ("rows.JSONL", lines({"id": "abc", **BARC})),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["file", "folder"])
def test_every_layout_gives_the_same_task(
    tmp_path: Path, name: str, content: str, encoding: str, packed: bool, place: str
) -> None:
    folder = tmp_path / "data" / "below"
    folder.mkdir(parents=True)
    data = content.encode(encoding)
    path = folder / (name + ".xz" if packed else name)
    path.write_bytes(lzma.compress(data, preset=0) if packed else data)
    (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    found = load_tasks(path if place == "file" else tmp_path / "data")
    assert found.tasks == load_tasks(save(tmp_path / "plain.json", {"abc": TWO_PAIRS})).tasks
    assert found.notes == ()
    assert [grid.tolist() for grid in load_solutions(path)["abc"] if grid is not None] == [[[0]]]


def test_rows_without_a_name_are_called_after_their_file(tmp_path: Path) -> None:
    assert load_tasks(save(tmp_path / "rows.jsonl", "\n" + lines(BARC, BARC))).ids == ("rows-2", "rows-3")
    assert load_tasks(save(tmp_path / "rows.json", [TWO_PAIRS, {"id": 17, **TWO_PAIRS}])).ids == ("rows-0", "17")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines({"id": "a", **TASK}) + "{", "line 3: not valid JSON at column 2"),
        (lines({"id": "a", **TASK}, 5), "line 2: task rows-2: a task must be an object with train and test, not a number"),
        (lines({"id": "a", **TASK}, {"id": "a", **TASK}), "line 2: task a: the id occurs more than once"),
        (lines({"text": "2 + 2"}), "line 1: must hold tasks or pairs of grids, not an object with the keys 'text'"),
        ("", "holds no tasks"),
    ],
)
def test_a_flawed_line_is_named_by_its_number(tmp_path: Path, text: str, message: str) -> None:
    path = save(tmp_path / "rows.jsonl", text)
    assert refusal(path).startswith(f"{path}: {message}")


def test_rows_of_one_id_are_one_bad_task(tmp_path: Path) -> None:
    path = save(tmp_path / "rows.jsonl", lines({"id": "a", **TASK}, {"id": "b", **TASK}, {"id": "a", **TASK}))
    found = load_tasks(path, on_bad_task="fallback")
    assert found.test_counts == {"a": 2, "b": 2}
    assert [task.id for task in found] == ["b"]


def test_lines_in_a_json_file_are_hinted_at(tmp_path: Path) -> None:
    message = refusal(save(tmp_path / "rows.json", lines({"id": "a", **TASK}, {"id": "b", **TASK})))
    assert message.endswith("Extra data; if every line is JSON of its own, name the file .jsonl")


def test_folders_of_folders_are_read_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ("Center/Center1", "Center/Center2", "AboveBelow/AboveBelow1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / f"{name}.json", TASK)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    save(tmp_path / ".ipynb_checkpoints" / "Center1.json", TASK)
    (tmp_path / "Center" / "._Center1.json").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "Center" / "back").symlink_to(tmp_path)
    assert load_tasks(tmp_path).ids == ("AboveBelow1", "Center1", "Center2")


def test_files_of_another_form_among_tasks_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    save(tmp_path / "tasks" / "abc.json", FAMILY)
    save(tmp_path / "metadata.json", {"abc": [{"n_seconds": 0.1}]})
    found = load_tasks(tmp_path)
    assert found.ids == ("abc",)
    (note,) = found.notes
    assert note.startswith(f"passed over: {tmp_path / 'metadata.json'}: must hold tasks")
    (tmp_path / "tasks" / "abc.json").unlink()
    save(tmp_path / "sample_submission.json", {"abc": [{"attempt_1": [[0]], "attempt_2": [[0]]}]})
    assert refusal(tmp_path).startswith(f"{tmp_path}: holds no tasks; passed over: {tmp_path / 'metadata.json'}")


# --- what nobody needs


@pytest.mark.parametrize("output", [[[1, 2], [3]], "?", [[11]], [], {"a": 1}])
def test_a_test_output_that_is_no_grid_costs_a_note(tmp_path: Path, output: Any) -> None:
    path = save(tmp_path / "abc.json", broken("test", 1, "output", output))
    found = load_tasks(path)
    assert [pair.output for pair in found.tasks[0].test] == [None, None]
    (note,) = found.notes
    assert note.startswith(f"{path}: task abc: test pair 1 output: ")
    assert note.endswith("; it counts as unknown")
    with pytest.raises(InputError, match="task abc: test pair 1 output: "):  # where it is needed
        load_solutions(path)


def test_a_test_output_of_null_is_unknown(tmp_path: Path) -> None:
    found = load_tasks(save(tmp_path / "abc.json", broken("test", 1, "output", None)))
    assert (found.tasks[0].test[1].output, found.notes) == (None, ())


def test_repeated_keys_matter_where_they_are_needed(tmp_path: Path) -> None:
    text = '{"x": 1, "x": 2, "train": [{"input": [[1]], "output": [[1]], "y": 1, "y": 1}], "test": [{"input": [[1]], %s}]}'
    assert load_tasks(save(tmp_path / "abc.json", text % '"z": 1, "z": 2')).notes == ()
    (note,) = load_tasks(save(tmp_path / "abc.json", text % '"output": [[1]], "output": [[2]]')).notes
    assert "test pair 0 has the key 'output' more than once; it counts as unknown" in note


@pytest.mark.parametrize(
    ("value", "usable", "words"),
    [
        ({"abc": [[[1]], [[2]]], "def": [[[3]]]}, ["abc", "def"], ""),
        ({"abc": [[[1]], [[2]]]}, ["abc"], "task def: has no solutions, but .*; only 1 of 2 tasks are scored"),
        (
            {"abc": [[[1]]], "def": [[[3]]], "ghi": [[[1]]]},
            ["def"],
            "task abc: has 1 outputs.*, and 1 more; only 1 of 2 tasks are scored",
        ),
        ({"abc": [[[1]], [[2], [3, 4]]], "def": [[[3]]]}, [], "test pair 1 output: row 1 .*; nothing is scored"),
        ("{", [], "cut off; nothing is scored"),
        (3, [], "must hold tasks or pairs of grids, not a number; nothing is scored"),
    ],
)
def test_solutions_that_nobody_needs_are_used_as_far_as_they_fit(
    tmp_path: Path, value: Any, usable: list[str], words: str
) -> None:
    path = save(tmp_path / "s.json", value)
    answers, complaint = load_usable_solutions(path, challenges(tmp_path))
    assert list(answers) == usable
    assert re.search(words, complaint) if words else not complaint
    assert not complaint or (complaint.startswith(str(path)) and "\n" not in complaint)
