"""Reading corpora: families of generators, folders of tasks, and the ARC-AGI training sets. The guard filters all of them.

A corpus file has one of the layouts of `arc.layouts`, and the file's name is the name of the source. A file with a single task or
a single family of pairs is named after its family instead. The source of such a family is named after the folder directly below
the corpus folder in which the file lies, or after the corpus folder if there is none between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from solver.arc.datasets import parse_pairs
from solver.arc.grid import GridError
from solver.arc.jsonfile import kind, read_json
from solver.arc.layouts import OtherForm, is_lines, is_single, read_entries
from solver.arc.task import Pair, Task
from solver.errors import InputError
from solver.pretrain.guard import Guard
from solver.pretrain.store import PairStore, pack
from solver.textfile import open_text

Report = Callable[[str], None]

READER_VERSION = 2  # raise it when the same files would give other families: cached ones are then made again
LM_FAMILY = "lm-written-"  # how the ids of families begin whose generators a language model wrote
MAX_NAMED = 5  # families named in a line of the report
MAX_PARSED_BYTES = 2**20  # a larger file is not parsed to see whether it is a single family: its beginning decides
_FAMILY = re.compile(r'\s*\[\s*\{\s*"(input|output)"\s*:')  # the beginning of a file that is a list of pairs


def build_store(
    paths: list[Path], guard: Guard, report: Report, arc_sets: dict[str, list[Task]], root: Path | None = None
) -> PairStore:
    """All families of the files and of `arc_sets` (source name -> tasks) that the guard lets through.

    `root` is the corpus folder. `report` gets the number of families and pairs of each source, those that the guard barred, and
    each family that is malformed. A file of another form is passed over with a line if other files hold families. Raises
    InputError for a file that cannot be read, or if no file holds families.
    """
    others: list[OtherForm] = []
    read: list[Path] = []

    def of_files(files: list[Path]) -> Iterator[tuple[str, list[Pair]]]:
        for file in files:
            try:
                yield from _read(file, report)
                read.append(file)
            except OtherForm as error:
                others.append(error)

    def families() -> Iterator[tuple[str, str, list[Pair]]]:
        for source, tasks in arc_sets.items():
            yield from _guarded(source, ((t.id, [*t.train, *t.test]) for t in tasks), guard, report)
        for source, files in _by_source(paths, root):
            yield from _guarded(source, of_files(files), guard, report)

    store = pack(families())
    if others and not read:
        raise others[0]
    for error in others:
        report(f"passed over: {error}")
    return store


def lm_written(store: PairStore) -> set[str]:
    """The sources of which every family has a generator that a language model wrote."""
    others = {source for name, source in zip(store.names, store.sources, strict=True) if not name.startswith(LM_FAMILY)}
    return set(store.sources) - others


def _guarded(
    source: str, families: Iterator[tuple[str, list[Pair]]], guard: Guard, report: Report
) -> Iterator[tuple[str, str, list[Pair]]]:
    """The families of a source that the guard lets through, as (name, source, pairs); reports counts at the end."""
    kept = barred_pairs = total = 0
    barred: list[str] = []
    short: list[str] = []
    for name, pairs in families:
        if guard.bars_name(name):
            barred.append(name)
            continue
        if not pairs or (len(pairs) == 1 and not guard.bars_pair(pairs[0])):
            short.append(name)
            continue
        seen = [guard.bars_pair(pair) for pair in pairs]
        clean = [pair for pair, bars in zip(pairs, seen, strict=True) if not bars]
        planted = {pair for pair, bars in zip(pairs, seen, strict=True) if bars}
        barred_pairs += len(pairs) - len(clean)
        # A task with one pair of an evaluation task is taken for that task under another name. A generator has so many pairs
        # that one of them may be there by chance; with two it is barred.
        if len(clean) < 2 or len(planted) > 1 or (planted and len(pairs) < 20):
            barred.append(name)
            continue
        kept += 1
        total += len(clean)
        yield name, source, clean
    report(f"{source}: {kept} families, {total} pairs; barred {_named(barred)} and {barred_pairs} pairs")
    if short:
        report(f"{source}: skipped {_named(short)} with fewer than two pairs")


def _named(names: list[str]) -> str:
    """How many families, with the names of the first ones."""
    if not names:
        return "0 families"
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)} families ({', '.join(names[:MAX_NAMED])}{rest})"


def _by_source(paths: list[Path], root: Path | None) -> Iterator[tuple[str, list[Path]]]:
    """(source, files): files with a single family grouped by their folder, every other file by itself."""
    folders: dict[str, list[Path]] = {}
    for path in paths:
        if _is_family(path):
            below = path.relative_to(root).parts[:-1] if root is not None and root in path.parents else ()
            folders.setdefault(below[0] if below else path.parent.name, []).append(path)
        else:
            yield path.name.split(".")[0], [path]
    yield from folders.items()


def _is_family(path: Path) -> bool:
    """Whether the file is one task or one family of pairs. Never raises: `_read` reports what is wrong with a file."""
    if is_lines(path):
        return False
    try:
        if path.suffix == ".json" and path.stat().st_size <= MAX_PARSED_BYTES:
            return is_single(read_json(path, "corpus"))
        with open_text(path, "corpus") as file:
            return _FAMILY.match(file.read(200)) is not None
    except (OSError, InputError):
        return False


def _read(path: Path, report: Report) -> Iterator[tuple[str, list[Pair]]]:
    """The families of a file, as (name, pairs); malformed ones are skipped and reported. Raises InputError if none is left."""
    good = _is_family(path)  # a folder of families goes on without a malformed file, like a file without a malformed family
    for entry in read_entries(path, "corpus"):
        try:
            if entry.flaw:
                raise GridError(entry.flaw)
            pairs, notes = _pairs(entry.value)
        except GridError as error:
            report(f"{entry.where}: family {entry.id} skipped: {error}")
            continue
        for note in notes:
            report(f"{entry.where}: family {entry.id}: {note}")
        good = True
        yield entry.id, pairs
    if not good:
        raise InputError(f"{path}: not a corpus: no family of it holds grids")


def _pairs(value: Any) -> tuple[list[Pair], list[str]]:
    """The pairs of a task or a family that have an output, and notes on test outputs that are no grids. Raises GridError."""
    if isinstance(value, list):
        return list(parse_pairs({"pairs": value}, "pairs")) if value else [], []
    if not isinstance(value, dict):
        raise GridError(f"a family must be a list of pairs or a task, not {kind(value)}")
    if not is_single(value):
        raise GridError("has neither train nor test pairs")
    notes: list[str] = []
    train = parse_pairs(value, "train") if value.get("train") else ()
    test = parse_pairs(value, "test", notes.append, answers=False) if value.get("test") else ()
    return [pair for pair in (*train, *test) if pair.output is not None], notes
