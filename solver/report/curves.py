"""The curves of a training as a picture."""

from __future__ import annotations

import json
from pathlib import Path


def plot_curves(metrics: Path, picture: Path) -> None:
    """Loss, held-out accuracy, learning rate and speed of a `metrics.jsonl` over the tokens trained on, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, sharex=True)
    tokens = 0.0
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        tokens = entry.get("tokens", tokens)  # a validation alone does not say
        for name, value in entry.items():
            curves.setdefault(name, []).append((tokens / 1e6, value))
    for panel, names in zip(
        panels, (("loss", "held_out_loss"), ("held_out_accuracy",), ("lr",), ("tokens_per_second",)), strict=True
    ):
        for name in names:
            points = curves.get(name, [])
            panel.plot([x for x, _ in points], [y for _, y in points], label=name.replace("_", " "))
        panel.legend()
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("million tokens")
    figure.savefig(picture, dpi=110)
