"""The curves of a training, and of what its checkpoints can do, as pictures.

A picture never costs the work that it shows: one that cannot be drawn is reported in a line and left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solver.report.scores import HeldOutRow, wilson

Report = Callable[[str], None]


def plot_curves(metrics: Path, picture: Path, report: Report) -> None:
    """Loss, held-out accuracy, rate, speed, MFU and peak memory (GB) of a `metrics.jsonl` over tokens trained on, as a PNG.

    Lines that a full disk or a kill has torn are left out.
    """
    _save(picture, (8, 12), report, lambda figure: _draw_curves(figure, metrics))


def _draw_curves(figure: Any, metrics: Path) -> None:
    entries = list(_entries(metrics.read_text(encoding="utf-8", errors="replace")))
    panels = figure.subplots(6, sharex=True)
    tokens = 0.0
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        tokens = entry.get("tokens", tokens)  # a validation alone does not say
        for name, value in entry.items():
            curves.setdefault(name, []).append((tokens / 1e6, value))
    curves["peak_memory"] = [(x, value / 1e9) for x, value in curves.get("peak_memory", [])]
    shown = (("loss", "held_out_loss"), ("held_out_accuracy",), ("lr",), ("tokens_per_second",), ("mfu",), ("peak_memory",))
    for panel, names in zip(panels, shown, strict=True):
        for name in names:
            points = curves.get(name, [])
            panel.plot([x for x, _ in points], [y for _, y in points], label=name.replace("_", " "))
        panel.legend()
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("million tokens")


def _entries(text: str) -> Iterator[dict[str, float]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def plot_held_out(rows: Iterable[HeldOutRow], picture: Path, report: Report) -> None:
    """Exact answers on held-out families over the tokens trained on, with 95 % intervals, as a PNG; a line a seed."""
    _save(picture, (7, 4), report, lambda figure: _draw_held_out(figure, rows))


def _draw_held_out(figure: Any, rows: Iterable[HeldOutRow]) -> None:
    panel = figure.subplots()
    known = sorted((row for row in rows if row.trained_tokens is not None), key=lambda row: row.trained_tokens or 0)
    for seed in sorted({row.seed for row in known}):
        mine = [row for row in known if row.seed == seed]
        tokens = [(row.trained_tokens or 0) / 1e6 for row in mine]
        shares = [100 * row.exact / row.queries for row in mine]
        ends = [wilson(row.exact, row.queries) for row in mine]
        below = [share - 100 * low for share, (low, _) in zip(shares, ends, strict=True)]
        above = [100 * high - share for share, (_, high) in zip(shares, ends, strict=True)]
        panel.errorbar(tokens, shares, yerr=[below, above], marker="o", capsize=3, label=f"queries of seed {seed}")
    if known:
        panel.legend()
    panel.set_xlabel("million tokens")
    panel.set_ylabel("greedy answer exact, %")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)


def _save(picture: Path, inches: tuple[float, float], report: Report, draw: Callable[[Any], None]) -> None:
    """Write what `draw` puts on a figure as a PNG. Whatever goes wrong is one line of report."""
    try:
        with _without_backend():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(picture, dpi=110)
    except Exception as error:  # a font, a backend, a full disk: none of it is worth the work that was done
        report(f"{picture}: cannot be drawn: {' '.join(str(error).split()) or type(error).__name__}")


@contextmanager
def _without_backend() -> Iterator[None]:
    """No MPLBACKEND: a notebook's names a module that may be missing here, for which `import matplotlib` fails."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
