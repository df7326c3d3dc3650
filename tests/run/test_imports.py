"""The supervisor's process starts fast and small: nothing in its room imports torch."""

from __future__ import annotations

import json
import subprocess
import sys

# Imports the modules of a package one after the other and tells, for each that brings in a heavy library, which.
PROGRAM = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [package.__name__, *(module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
heavy, known = {}, set()
for name in names:
    importlib.import_module(name)
    new = {"torch", "transformers"} & sys.modules.keys() - known
    if new:
        heavy[name] = sorted(new)
        known |= new
print(json.dumps([names, heavy]))
"""


def imports(package: str) -> tuple[list[str], dict[str, list[str]]]:
    """The modules of a package, and what heavy libraries each of them brings in that those before it did not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, package], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    names, heavy = json.loads(done.stdout)
    return names, heavy


def test_no_module_of_the_supervisor_imports_torch() -> None:
    names, heavy = imports("solver.run")
    assert {"solver.run.supervisor", "solver.run.pipeline", "solver.run.executors.local"} <= set(names)
    assert heavy == {}


def test_a_module_that_imports_torch_is_named() -> None:
    assert "torch" in next(iter(imports("solver.model")[1].values()))
