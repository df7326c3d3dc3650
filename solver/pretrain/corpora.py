"""Reading corpora: generator families, folders of tasks, and the ARC-AGI training sets, all behind the guard.

A corpus file is JSON (optionally .xz): `{family: [pair, ...]}` or `{id: {"train": [...], "test": [...]}}`, named as its source.
A file that is one task, `{"train": [...], "test": [...]}`, is a family named as the file, its source the folder it lies in
(packed or above 1 MiB: the file).
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from solver.arc.grid import GridError, parse_grid
from solver.arc.task import Pair, Task
from solver.errors import InputError
from solver.pretrain.guard import Guard
from solver.pretrain.store import PairStore, pack

Report = Callable[[str], None]

READING = 1  # raise when the same files would give other families
NAMED = 5  # barred families that a line names
TASK_BYTES = 2**20  # larger files are no single task


def build_store(paths: list[Path], guard: Guard, report: Report, arc_sets: dict[str, list[Task]]) -> PairStore:
    """All families of the files and of `arc_sets` (source name -> tasks) that the guard lets through.

    Refused families and pairs are reported by count, bad ones by name. Raises InputError for a file that cannot be read.
    """

    def families() -> Iterator[tuple[str, str, list[Pair]]]:
        for source, tasks in arc_sets.items():
            yield from _guarded(source, ((t.id, [*t.train, *t.test]) for t in tasks), guard, report)
        for source, files in _by_source(paths):
            yield from _guarded(source, (family for file in files for family in _read(file, report)), guard, report)

    return pack(families())


def _guarded(
    source: str, families: Iterator[tuple[str, list[Pair]]], guard: Guard, report: Report
) -> Iterator[tuple[str, str, list[Pair]]]:
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
        # a task that shares one pair with an evaluation task is that task under another name, and so is a generator that
        # shares two; of so many pairs one can be there by chance
        if len(clean) < 2 or len(planted) > 1 or (planted and len(pairs) < 20):
            barred.append(name)
            continue
        kept += 1
        total += len(clean)
        yield name, source, clean
    report(f"{source}: {kept} families, {total} pairs; barred {_named(barred)} and {barred_pairs} pairs")
    if short:
        report(f"{source}: skipped {_named(short)} of fewer than two pairs")


def _named(names: list[str]) -> str:
    if not names:
        return "0 families"
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} families ({', '.join(names[:NAMED])}{rest})"


def _by_source(paths: list[Path]) -> Iterator[tuple[str, list[Path]]]:
    """Task files by the folder they lie in, every other file by itself."""
    tasks: dict[Path, list[Path]] = {}
    for path in paths:
        if _is_task(path):
            tasks.setdefault(path.parent, []).append(path)
        else:
            yield path.name.split(".")[0], [path]
    for folder, files in tasks.items():
        yield folder.name, files


def _is_task(path: Path) -> bool:
    """Whether the file is one task. Any other answer, an error included, is `_read`'s to give."""
    if path.suffix != ".json" or path.stat().st_size > TASK_BYTES:
        return False
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return _one_task(data)


def _one_task(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("train"), list) and ("test" in data or len(data) == 1)


def _read(path: Path, report: Report) -> Iterator[tuple[str, list[Pair]]]:
    try:
        raw = path.read_bytes()
        data = json.loads(lzma.decompress(raw) if path.suffix == ".xz" else raw)
    except OSError as error:
        raise InputError(f"{path}: cannot read the corpus: {error.strerror}") from None
    except (lzma.LZMAError, EOFError):
        raise InputError(f"{path}: the corpus is truncated or not xz data") from None
    except ValueError as error:
        raise InputError(f"{path}: the corpus is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: a corpus is an object of families, not {type(data).__name__}")
    alone = _one_task(data)
    if alone:
        data = {path.name.removesuffix(".xz").removesuffix(".json"): data}
    good = alone  # one task of a folder is skipped like one of a file
    for name, value in data.items():
        try:
            pairs = _pairs(value)
        except (GridError, KeyError, TypeError) as error:
            reason = f"no pair of grids: {type(error).__name__}: {error}" if not isinstance(error, GridError) else error
            report(f"{path.name}: family {name} skipped: {reason}")
            continue
        good = True
        yield name, pairs
    if not good:
        raise InputError(f"{path}: not a corpus: no family of it holds grids")


def _pairs(value: Any) -> list[Pair]:
    if isinstance(value, dict):
        value = [*value["train"], *value.get("test", ())]
    return [Pair(parse_grid(pair["input"]), parse_grid(pair["output"])) for pair in value]
