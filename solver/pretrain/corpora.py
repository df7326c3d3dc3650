"""Reading corpora: generator families, folders of tasks, and the ARC-AGI training sets, all behind the guard.

A corpus file is JSON (optionally .xz): `{family: [pair, ...]}` or `{id: {"train": [...], "test": [...]}}`.
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


def build_store(paths: list[Path], guard: Guard, report: Report, arc_sets: dict[str, list[Task]]) -> PairStore:
    """All families of the files and of `arc_sets` (source name -> tasks) that the guard lets through.

    Refused families and pairs are reported by count, bad ones by name. Raises InputError for a file that cannot be read.
    """

    def families() -> Iterator[tuple[str, str, list[Pair]]]:
        for source, tasks in arc_sets.items():
            yield from _guarded(source, ((t.id, [*t.train, *t.test]) for t in tasks), guard, report)
        for path in paths:
            source = path.name.split(".")[0]
            yield from _guarded(source, _read(path, report), guard, report)

    return pack(families())


def _guarded(
    source: str, families: Iterator[tuple[str, list[Pair]]], guard: Guard, report: Report
) -> Iterator[tuple[str, str, list[Pair]]]:
    kept = barred_families = barred_pairs = total = 0
    for name, pairs in families:
        if name in guard.ids:
            barred_families += 1
            continue
        clean = [pair for pair in pairs if not guard.bars_pair(pair)]
        barred_pairs += len(pairs) - len(clean)
        # a task that shares one pair with an evaluation task is that task under another name
        if len(clean) < 2 or (len(clean) < len(pairs) and len(pairs) < 20):
            barred_families += 1
            continue
        kept += 1
        total += len(clean)
        yield name, source, clean
    report(f"{source}: {kept} families, {total} pairs; barred {barred_families} families and {barred_pairs} pairs")


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
    for name, value in data.items():
        try:
            yield name, _pairs(value)
        except (GridError, KeyError, TypeError) as error:
            report(f"{path.name}: family {name} skipped: {error}")


def _pairs(value: Any) -> list[Pair]:
    if isinstance(value, dict):
        value = [*value["train"], *value["test"]]
    return [Pair(parse_grid(pair["input"]), parse_grid(pair["output"])) for pair in value]
