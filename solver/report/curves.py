"""Pictures: the curves of a training, the held-out accuracy of its checkpoints, and the steps that fit the time of a machine.

A picture that cannot be drawn is reported in one line and left out, so that it never ends the work it would show.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solver.report.scores import HeldOutRow, wilson

Report = Callable[[str], None]


def plot_curves(metrics: Path, picture: Path, report: Report) -> None:
    """Loss, held-out accuracy, rate, speed, MFU and peak memory (GB) of a `metrics.jsonl` over tokens trained on, as a PNG.

    Lines that are incomplete because of a full disk or a kill are left out.
    """
    save_picture(picture, (8, 12), report, lambda figure: _draw_curves(figure, metrics))


def _draw_curves(figure: Any, metrics: Path) -> None:
    entries = list(_entries(metrics.read_text(encoding="utf-8", errors="replace")))
    panels = figure.subplots(6, sharex=True)
    tokens = 0.0
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        tokens = entry.get("tokens", tokens)  # an entry of a validation has no tokens
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
    """Share of exact answers on held-out families over the tokens trained on, with 95 % intervals, as a PNG. A line per seed."""
    save_picture(picture, (7, 4), report, lambda figure: _draw_held_out(figure, rows))


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


def plot_throughput(curves: Mapping[str, Sequence[tuple[int, float]]], title: str, picture: Path, report: Report) -> None:
    """Steps a task over tokens a sequence, a line for each name, both axes logarithmic, as a PNG."""
    save_picture(picture, (7, 4), report, lambda figure: _draw_throughput(figure, curves, title))


def _draw_throughput(figure: Any, curves: Mapping[str, Sequence[tuple[int, float]]], title: str) -> None:
    panel = figure.subplots()
    for name, points in curves.items():
        panel.loglog([tokens for tokens, _ in points], [steps for _, steps in points], marker="o", label=name)
    lengths = sorted({tokens for points in curves.values() for tokens, _ in points})
    panel.set_xticks(lengths, [f"{tokens:,}" for tokens in lengths])
    panel.minorticks_off()
    panel.set_xlabel("tokens a sequence")
    panel.set_ylabel("steps a task")
    panel.set_title(title, fontsize="medium")
    panel.grid(alpha=0.3)
    if curves:
        panel.legend()


@dataclass(frozen=True)
class SharePoint:
    """A measured share, 0 to 1, with its 95 % interval."""

    at: float
    share: float
    low: float
    high: float


def plot_shares(
    curves: Mapping[str, Sequence[SharePoint]], x_label: str, y_label: str, title: str, picture: Path, report: Report
) -> None:
    """Shares in percent with 95 % intervals over a number on a logarithmic axis, a line for each name, as a PNG."""
    save_picture(picture, (7, 4.5), report, lambda figure: _draw_shares(figure, curves, x_label, y_label, title))


def _draw_shares(figure: Any, curves: Mapping[str, Sequence[SharePoint]], x_label: str, y_label: str, title: str) -> None:
    panel = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        shift = 1.02 ** (number - len(curves) / 2)  # so that intervals at the same place do not hide each other
        shares = [100 * point.share for point in points]
        reach = [
            [100 * (point.share - point.low) for point in points],
            [100 * (point.high - point.share) for point in points],
        ]
        panel.errorbar([point.at * shift for point in points], shares, yerr=reach, marker="o", capsize=2, label=name)
    places = sorted({point.at for points in curves.values() for point in points})
    panel.set_xscale("log")
    panel.set_xticks(places, [f"{place:,g}" for place in places])
    panel.minorticks_off()
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.set_title(title, fontsize="medium")
    panel.grid(alpha=0.3)
    if curves:
        panel.legend(fontsize="small")


def save_picture(picture: Path, inches: tuple[float, float], report: Report, draw: Callable[[Any], None]) -> None:
    """Draw a figure and write it as a PNG. Any error becomes one line of `report`."""
    try:
        with _without_backend():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(picture, dpi=110)
    except Exception as error:  # a font, a backend, a full disk: no error here may end the caller's work
        report(f"{picture}: cannot be drawn: {' '.join(str(error).split()) or type(error).__name__}")


@contextmanager
def _without_backend() -> Iterator[None]:
    """Hide MPLBACKEND: in a notebook it may name a module that is missing here, and `import matplotlib` would fail."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
