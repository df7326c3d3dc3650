"""Tables of experiments: what every arm is worth, beside what its source reports, as Markdown, JSON values and a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from solver.report.curves import save_picture
from solver.report.scores import wilson

CHANCE = 0.05  # a p from which on a difference may be chance
AGREES, DISAGREES, NO_DIFFERENCE, OPEN = "agrees", "disagrees", "no difference", ""


@dataclass(frozen=True)
class ArmComparison:
    """An arm compared with another one, on the tasks that both have results of."""

    against: str
    total: int  # tasks
    difference: float  # of the shares of solved tasks, -1 to 1
    low: float  # of the 95 % interval
    high: float
    better: int  # tasks
    worse: int
    p: float  # of the exact sign test over tasks

    def text(self) -> str:
        """In points, with interval, discordant tasks, p and n."""
        points = f"{100 * self.difference:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"
        return f"{points}, +{self.better} -{self.worse}, p = {self.p:.2g}, n = {self.total}"


@dataclass(frozen=True)
class LossComparison:
    """The nats of true answers under an arm less those under another, by task. One long task can dominate the mean."""

    total: int  # tasks
    mean: float
    error: float  # standard error of the mean; infinite for a single task
    median: float
    fewer: int  # tasks with fewer nats

    def text(self) -> str:
        """The mean with its standard error, the median, and on how many tasks there are fewer."""
        error = f" ± {self.error:.2f}" if math.isfinite(self.error) else ""
        return f"{self.mean:+.2f}{error}, median {self.median:+.2f}, fewer on {self.fewer} of {self.total}"


@dataclass(frozen=True)
class ArmLine:
    """One arm of a table. Counts of solved tasks and inputs are means over seeds."""

    arm: str
    model: str
    change: str  # the setting that differs, as key=value; empty: none
    tasks: int
    tasks_solved: float
    inputs: int
    inputs_solved: float
    first_solved: float  # inputs, by the first attempt
    compared: ArmComparison | None
    source: str  # what the source reports
    verdict: str  # AGREES, DISAGREES, NO_DIFFERENCE, or OPEN: the source does not say, or nothing was measured
    steps: float  # optimizer steps a task
    tokens: float  # trained on, a task
    seconds: float  # of a pass
    nats: float | None = None  # loss of a true answer
    nats_token: float | None = None  # the same, a token
    loss_compared: LossComparison | None = None
    failure: str = ""  # why tasks have no result

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of solved tasks."""
        return wilson(self.tasks_solved, self.tasks)


@dataclass(frozen=True)
class ArmsReport:
    """A table with everything that a reader needs to judge it."""

    title: str
    source: str
    note: str
    facts: tuple[str, ...]  # lines: tasks, seeds, hardware, commits, counts
    lines: tuple[ArmLine, ...]
    statements: tuple[str, ...] = ()  # which directions agree with the source, and which do not


def verdict(effect: str | None, compared: ArmComparison | None) -> str:
    """Whether the sign of a measured difference is the one that the source reports.

    For "same", a source that saw no gain: only a gain that is unlikely to be chance disagrees.
    """
    if effect is None or compared is None or not compared.total:
        return OPEN
    if effect == "same":
        return DISAGREES if compared.difference > 0 and compared.p < CHANCE else AGREES
    if not compared.difference:
        return NO_DIFFERENCE
    return AGREES if (compared.difference > 0) == (effect == "higher") else DISAGREES


def statements(lines: Sequence[ArmLine]) -> list[str]:
    """A line for each kind of verdict, with the arms that have it."""
    kinds = (
        (AGREES, "The direction agrees with the source"),
        (DISAGREES, "The direction disagrees with the source"),
        (NO_DIFFERENCE, "No difference was measured where the source reports one"),
    )
    found = []
    several = len({line.model for line in lines}) > 1
    for kind, words in kinds:
        arms = [_with_chance(line, several) for line in lines if line.verdict == kind]
        found.append(f"{words}: {'; '.join(arms) if arms else 'none'}.")
    return found


def _with_chance(line: ArmLine, several: bool) -> str:
    assert line.compared is not None
    name = f"{line.arm} ({line.model})" if several else line.arm
    return f"{name}, p = {line.compared.p:.2g}" + (" (may be chance)" if line.compared.p >= CHANCE else "")


def markdown(report: ArmsReport) -> str:
    """The table, what it was measured on, and which directions agree."""
    losses = any(line.nats is not None for line in report.lines)
    several = len({line.model for line in report.lines}) > 1
    head = ["arm", *(["model"] if several else []), "changed setting", "tasks solved", "test inputs solved", "first attempt"]
    head += [
        "against",
        "difference in points of tasks",
        *(["nats an answer", "nats a token", "difference of nats an answer"] if losses else []),
    ]
    head += ["steps, tokens a task", "s a task", "source", "direction"]
    rows = [_cells(line, several, losses) for line in report.lines]
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    facts = [f"- {fact}" for fact in (f"Follows {report.source}.", *report.facts, report.note) if fact]
    failures = [f"- {line.arm}, {line.model}: {line.failure}" for line in report.lines if line.failure]
    left_out = ["", "Without a result:", "", *failures] if failures else []
    said = [f"- {line}" for line in report.statements]
    return "\n".join([f"## {report.title}", "", *table, "", *facts, "", *said, *left_out, ""])


def _cells(line: ArmLine, several: bool, losses: bool) -> list[str]:
    compared = line.compared
    found = [
        line.arm,
        *([line.model] if several else []),
        f"`{line.change}`" if line.change else "",
        _counted(line.tasks_solved, line.tasks),
        _counted(line.inputs_solved, line.inputs),
        f"{line.first_solved:g} of {line.inputs}" if line.inputs else "-",
        compared.against if compared else "",
        compared.text() if compared and compared.total else "",
    ]
    if losses:
        found += ["-" if value is None else f"{value:.3f}" for value in (line.nats, line.nats_token)]
        found.append(line.loss_compared.text() if line.loss_compared else "")
    return [
        *found,
        f"{line.steps:.0f}, {line.tokens:,.0f}",
        f"{line.seconds:.1f}",
        line.source,
        line.verdict,
    ]


def _counted(hits: float, total: int) -> str:
    if not total:
        return "-"
    low, high = wilson(hits, total)
    return f"{hits:g} of {total}: {100 * hits / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def as_json(report: ArmsReport) -> dict[str, Any]:
    """The same as JSON values; intervals of the shares of solved tasks included."""
    value = asdict(report)
    for line, entry in zip(report.lines, value["lines"], strict=True):
        entry["interval"] = list(line.interval)
    return value


def plot_arms(report: ArmsReport, picture: Path, tell: Callable[[str], None]) -> None:
    """The share of solved tasks of every arm with its 95 % interval, as bars; the first arm's share is a dashed line."""
    height = 1.6 + 0.34 * len(report.lines)
    save_picture(picture, (9, height), tell, lambda figure: _draw(figure, report))


def _draw(figure: Any, report: ArmsReport) -> None:
    panel = figure.subplots()
    models = list(dict.fromkeys(line.model for line in report.lines))
    several = len(models) > 1
    places = range(len(report.lines))
    shares = [100 * line.tasks_solved / max(1, line.tasks) for line in report.lines]
    reach = [
        [share - 100 * line.interval[0] if line.tasks else 0.0 for share, line in zip(shares, report.lines, strict=True)],
        [100 * line.interval[1] - share if line.tasks else 0.0 for share, line in zip(shares, report.lines, strict=True)],
    ]
    colours = [f"C{models.index(line.model)}" for line in report.lines]
    panel.barh(places, shares, xerr=reach, color=colours, capsize=3, alpha=0.75)
    names = [f"{line.arm}, {line.model}" if several else line.arm for line in report.lines]
    labels = [
        f"{name} (n = {line.tasks})" if line.tasks else f"{name} (not measured)"
        for name, line in zip(names, report.lines, strict=True)
    ]
    panel.set_yticks(places, labels, fontsize="small")
    panel.invert_yaxis()
    if shares and report.lines[0].tasks:
        panel.axvline(shares[0], linestyle="--", color="black", linewidth=0.8)
    panel.set_xlim(left=0)
    panel.set_xlabel("tasks solved, %, with 95 % intervals")
    figure.suptitle("\n".join(textwrap.wrap(report.title, 90)), fontsize="medium")
    panel.grid(axis="x", alpha=0.3)
