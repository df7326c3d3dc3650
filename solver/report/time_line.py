"""The time line of a run: what each of its processes did when, from the start of the supervisor to its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from solver.report.charts import Axis
from solver.report.html_page import HtmlTable, render

# In the order of a pass. Each is drawn in a colour and with a height (share of the lane) of its own.
PHASES = {"prepare": 0.3, "fit": 1.0, "infer": 0.7, "score": 0.5, "programs": 0.85}
LENGTH, LANE = 1000, 20  # of a lane, in units of its own coordinates
UNITS = ((3600, "h"), (60, "min"), (1, "s"))
MIN_WIDTH = 0.1  # of these units: a shorter phase is not drawn


@dataclass(frozen=True)
class Work:
    """A work item, a program search or the shared fit. Times are seconds since the start of the supervisor's process."""

    kind: str  # of the process that did it
    number: int  # of this process among those of its kind
    ended: float
    phases: Mapping[str, float]  # seconds, by phase

    @property
    def process(self) -> tuple[str, int]:
        """The kind and the number of its process."""
        return self.kind, self.number

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(self.phases.values())


@dataclass(frozen=True)
class Mark:
    """Something that happened at a moment."""

    at: float
    text: str


@dataclass(frozen=True)
class TimeLine:
    """One process of a supervisor: a run has one, and one more for each resumption."""

    title: str
    seconds: float  # that it took; of one that was killed: until its last sign
    works: tuple[Work, ...]
    marks: tuple[Mark, ...] = ()

    def html(self) -> Markup:
        """Lanes with the phases of all work in them, a key, a table of the same seconds, and the marks."""
        by_process: dict[tuple[str, int], list[Work]] = {}
        for work in self.works:
            by_process.setdefault(work.process, []).append(work)
        lanes = {f"{kind} {number}": works for (kind, number), works in sorted(by_process.items())}
        length = max(self.seconds, 1e-3)
        unit, name = next((unit, name) for unit, name in UNITS if length >= 3 * unit or unit == 1)
        ticks = Axis(name, 0.0, length / unit).ticks()
        return render(
            "time_line.html",
            line=self,
            lanes=[(name, _outlines(works, length), _busy_text(name, works, self.seconds)) for name, works in lanes.items()],
            marks=[(min(mark.at / length, 1.0) * (LENGTH - 2), mark) for mark in self.marks],
            ticks=[(tick * unit / length, f"{tick:g} {name}") for tick in ticks],
            key=[(number, height, name) for number, (name, height) in enumerate(PHASES.items()) if self._total(name)],
            table=_table(self, lanes),
        )

    def _total(self, phase: str) -> float:
        return sum(work.phases.get(phase, 0.0) for work in self.works)


def _outlines(works: Sequence[Work], length: float) -> list[tuple[int, str]]:
    """For each phase its number and the outline of all of its stretches. An item begins when it ended, less its seconds."""
    outlines: dict[str, list[str]] = {}
    free = 0.0
    for work in sorted(works, key=lambda work: work.ended):
        began = max(free, work.ended - work.seconds)
        shrink = (work.ended - began) / work.seconds if work.seconds else 0.0  # 1, unless two items overlap by rounding
        at = began
        for phase, height in PHASES.items():
            seconds = work.phases.get(phase, 0.0) * shrink
            left, width = at / length * LENGTH, seconds / length * LENGTH
            if width >= MIN_WIDTH:
                tall = height * LANE
                outlines.setdefault(phase, []).append(f"M{left:.1f} {LANE - tall:g}h{width:.1f}v{tall:g}h-{width:.1f}z")
            at += seconds
        free = work.ended
    return [(number, "".join(outlines[phase])) for number, phase in enumerate(PHASES) if phase in outlines]


def _busy_text(name: str, works: Sequence[Work], seconds: float) -> str:
    busy = sum(work.seconds for work in works)
    return f"{name}: {len(works)} pieces of work, {busy:.1f} of {seconds:.1f} s"


def _table(line: TimeLine, lanes: Mapping[str, Sequence[Work]]) -> HtmlTable:
    used = [phase for phase in PHASES if line._total(phase)]
    rows = []
    for name, works in lanes.items():
        busy = sum(work.seconds for work in works)
        shares = [f"{sum(work.phases.get(phase, 0.0) for work in works):.1f} s" for phase in used]
        rows.append([name, str(len(works)), *shares, f"{busy:.1f} s", f"{busy / line.seconds:.0%}" if line.seconds else "-"])
    return HtmlTable(f"Seconds of {line.title} by process", ("process", "items", *used, "busy", "share"), rows)


def merged(works: Sequence[tuple[str, Work]]) -> Iterator[Work]:
    """One piece of work for each item: the passes of an item ran together, so their seconds are added up, by phase.

    `works` are pairs of an item and the work of a pass; an empty item stands for a pass that ran alone.
    """
    items: dict[str, Work] = {}
    for item, work in works:
        if not item:
            yield work
        elif (first := items.get(item)) is None:
            items[item] = work
        else:
            phases = {phase: first.phases.get(phase, 0.0) + work.phases.get(phase, 0.0) for phase in PHASES}
            items[item] = replace(first, ended=max(first.ended, work.ended), phases=phases)
    yield from items.values()
