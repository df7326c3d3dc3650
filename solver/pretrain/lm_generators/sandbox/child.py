"""The locked process: reads a job, gives up what it can do, runs the code, and writes the pairs that the code draws.

It writes two lines of JSON. The first one is written before the code runs and says whether the process is locked; the code cannot
take it back. The second one is whatever the code made of this process, so the reader trusts nothing of it.

The restricted builtins and the list of modules are for honest code: they end it with a reason that can be counted. They are no
wall, because Python has none. The wall is what `sandbox.lockdown` did. This module needs nothing but the standard library.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import random
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from solver.pretrain.lm_generators.sandbox.lockdown import LayerMissing, Limits, lock
from solver.pretrain.lm_generators.sandbox.seccomp import ANSWER_FD

MODULES = (
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "copy",
    "dataclasses",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "random",
    "string",
    "typing",
)
FORBIDDEN = ("open", "eval", "exec", "compile", "input", "breakpoint")  # builtins that honest code has no need for
NO_FILE = "\ud800"  # a name that no file can have: for a syntax error Python tries to read the line from the file of this name
MAX_SIDE, COLOURS = 30, 10  # as `arc.grid` has them, which needs numpy
MAX_DETAIL = 200  # characters of an error's message


class ForbiddenImport(ImportError):
    """The code imports a module that is not in MODULES."""


class _Refused(Exception):
    """Why the code gives no pairs: a reason, and details for people."""

    def __init__(self, reason: str, error: BaseException | str) -> None:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        super().__init__(reason, text[:MAX_DETAIL])


def main() -> None:
    """What the locked process does from its start to its end."""
    job = json.loads(sys.stdin.buffer.read())
    for name in MODULES:  # while files can still be read
        importlib.import_module(name)
    try:
        lock(job["layers"], Limits(**job["limits"]), job["parent"], job["empty_folder"])
    except LayerMissing as missing:
        _write({"missing": [missing.layer, missing.reason]})
        os._exit(0)
    _write({"locked": True})
    try:
        answer: dict[str, Any] = {"pairs": draw(job["code"], job["seeds"], job["pairs"])}
    except _Refused as refused:
        answer = {"refused": list(refused.args)}
    except MemoryError:
        answer = {"refused": ["memory", ""]}
    except BaseException as error:  # for example SystemExit, or an error whose text cannot be made
        answer = {"refused": ["error", type(error).__name__[:MAX_DETAIL]]}
    _write(answer)
    os._exit(0)  # without the code's exit handlers and destructors


def draw(code: str, seeds: Iterable[int], count: int) -> list[list[Any]]:
    """`count` pairs of the generator in `code`, each with the seed that gave it: [seed, input, output].

    A seed with which the generator fails is passed over. Raises _Refused if the pairs are fewer.
    """
    try:
        program = compile(code, NO_FILE, "exec", dont_inherit=True)
    except MemoryError:
        raise
    except Exception as error:
        raise _Refused("syntax", error) from None
    module = sys.modules["generator"] = ModuleType("generator")  # where data classes look up their annotations
    space = vars(module)
    space["__builtins__"] = _builtins()
    random.seed(0)
    try:
        exec(program, space)
    except ForbiddenImport as error:
        raise _Refused("import", error) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _Refused("error", error) from None
    generate = space.get("generate")
    if not callable(generate):
        raise _Refused("no generate", "")
    pairs: list[list[Any]] = []
    first_error = ""
    for seed in seeds:
        if len(pairs) == count:
            break
        random.seed(seed)
        try:
            drawn = generate(random.Random(seed))
        except ForbiddenImport as error:
            raise _Refused("import", error) from None
        except MemoryError:
            raise
        except Exception as error:
            first_error = first_error or f"{type(error).__name__}: {error}"
            continue
        pairs.append([seed, *_sides(drawn)])
    if len(pairs) < count:
        raise _Refused("error", first_error)
    return pairs


def _sides(drawn: object) -> list[list[list[int]]]:
    """Input and output of what a generator gave: a tuple or a list of two, or a dictionary with these keys."""
    if type(drawn) is dict:
        drawn = [drawn.get("input"), drawn.get("output")]
    if type(drawn) not in (tuple, list) or len(drawn) != 2:  # type: ignore[arg-type]
        raise _Refused("bounds", "not a pair")
    return [_rows(side) for side in drawn]  # type: ignore[attr-defined]


def _rows(grid: object) -> list[list[int]]:
    """A grid as lists. What comes from the code has exactly these types, so that none of its methods is called."""
    rows = _items(grid)
    cells = [_items(row) for row in rows]
    if not all(type(cell) is int and 0 <= cell < COLOURS for row in cells for cell in row):
        raise _Refused("bounds", "a cell is not a whole number from 0 to 9")
    return cells


def _items(value: object) -> list[Any]:
    if type(value) not in (tuple, list):
        raise _Refused("bounds", "not a grid")
    items = list(value)  # type: ignore[call-overload]
    if not 1 <= len(items) <= MAX_SIDE:
        raise _Refused("bounds", f"a side of {len(items)}")
    return items


def _builtins() -> dict[str, Any]:
    """The builtins for the code: `print` prints nothing, and only MODULES can be imported."""
    kept = {name: value for name, value in vars(builtins).items() if name not in FORBIDDEN}
    return kept | {"print": lambda *_, **__: None, "__import__": _import}


def _import(name: str, _globals: Any = None, _locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    """As `__import__`. Looks up modules that are loaded, because no file can be read any more."""
    if level != 0 or name not in MODULES:
        raise ForbiddenImport(name)
    return sys.modules[name if fromlist else name.partition(".")[0]]


def _write(value: dict[str, Any]) -> None:
    line = (json.dumps(value) + "\n").encode()
    while line:
        line = line[os.write(ANSWER_FD, line) :]
