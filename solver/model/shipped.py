"""The base models that ship with the package, the names that --model takes for them, and which one a run gets.

Needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from solver.model.folder import SHIPPED

ANY = "embedded"  # the name that leaves the choice to the package


def model_named(text: str) -> Path | None:
    """The folder that --model means; None where the choice among the shipped models is left to the package."""
    return None if text == ANY else SHIPPED.get(text, Path(text))


def shipped_model(on_gpu: bool) -> Path:
    """The shipped model for a device.

    On processors `base`: a step of `mid` takes three times as long, and on held-out tasks the same seconds buy no more with it.
    Where there is a GPU, neither fills it, and `mid` knows more before any fit.
    """
    return SHIPPED["embedded-mid" if on_gpu else "embedded-base"]


def name_of(folder: Path) -> str:
    """What people call a model folder."""
    return next((name for name, shipped in SHIPPED.items() if shipped == folder), folder.name)
