"""Examples of task generators, which prompts show. Each file is one, on its own: a description, then code.

The procedural families of this package cannot be shown: one rule of them is spread over scenes, primitives and their registry.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """A task generator to show."""

    name: str
    description: str  # of the rule, in one line
    code: str  # defines generate(rng), which gives an input and its output


def load_examples() -> tuple[Example, ...]:
    """All of them, in the order of their names."""
    files = sorted(file for file in Path(__file__).parent.glob("*.py") if file.name != "__init__.py")
    return tuple(_read(file) for file in files)


def _read(file: Path) -> Example:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    description = ast.get_docstring(tree)
    assert description is not None, file
    lines = text.splitlines()[tree.body[0].end_lineno :]
    return Example(file.stem, " ".join(description.split()), "\n".join(lines).strip())
