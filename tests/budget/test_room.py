"""What the budget room promises of itself: no torch, no clock of its own, no waiting."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import solver.budget

MODULES = sorted(module.name for module in pkgutil.iter_modules(solver.budget.__path__))
CLOCKS = {"time", "datetime", "threading", "asyncio", "torch"}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_a_clock_or_torch(name: str) -> None:
    tree = ast.parse((Path(solver.budget.__path__[0]) / f"{name}.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert not imported & CLOCKS


def test_nothing_it_needs_imports_torch() -> None:
    code = f"import sys, {', '.join(f'solver.budget.{name}' for name in MODULES)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
