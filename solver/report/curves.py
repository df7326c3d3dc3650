"""The curves of a training, and of what its checkpoints can do, as pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from solver.report.scores import HeldOutRow, wilson


def plot_curves(metrics: Path, picture: Path) -> None:
    """Loss, held-out accuracy, rate, speed, MFU and peak memory (GB) of a `metrics.jsonl` over tokens trained on, as a PNG.

    Lines that a full disk or a kill has torn are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = list(_entries(metrics.read_text(encoding="utf-8", errors="replace")))
    figure = Figure(figsize=(8, 12), layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.savefig(picture, dpi=110)


def _entries(text: str) -> Iterator[dict[str, float]]:
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def plot_held_out(rows: Iterable[HeldOutRow], picture: Path) -> None:
    """Exact answers on held-out families over the tokens trained on, with 95 % intervals, as a PNG; a line a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
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
    figure.savefig(picture, dpi=110)
