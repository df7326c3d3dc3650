"""Generates `kaggle/submission.ipynb` from `kaggle/submission.py`, without outputs: `make kaggle-notebook`.

A second run gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SOURCE, NOTEBOOK = FOLDER / "submission.py", FOLDER / "submission.ipynb"


def notebook() -> Any:
    """The notebook of the source, as nbformat has it in memory."""
    made = jupytext.reads(SOURCE.read_text(encoding="utf-8"), fmt="py:percent")
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # jupytext draws ids at random
    nbformat.validate(made)
    return made


def text() -> str:
    """The content of the notebook's file."""
    return str(nbformat.writes(notebook())) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(text(), encoding="utf-8")
