"""Charts as inline SVG for the pages of `solver.report.html_page`, whose style sheet gives them their colours in light and dark.

No chart tells curves apart by colour alone: each has a marker and a dash of its own. A chart has one text alternative, which says
what it shows. Its numbers belong beside it, in a table (`html_page.chart`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 280  # of a chart, in units of its own coordinates
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 42  # margins around the plane; a line of the key takes KEY_LINE more
KEY_LINE, CHARACTER = 18, 8.2  # height of a line of the key; mean width of a character in narrow windows
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")
COLOURS = len(DASHES)  # that the style sheet has: classes s0, s1, ...


@dataclass(frozen=True)
class Axis:
    """A range of values with its label. A logarithmic one needs `low` above 0."""

    label: str
    low: float
    high: float
    logarithmic: bool = False
    text: Callable[[float], str] = "{:g}".format  # of a value at a tick

    def share(self, value: float) -> float:
        """Where a value lies between both ends: 0 to 1. Values outside count as the nearer end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = self._scaled(min(max(value, self.low), self.high))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Two to six round values in the range; powers of ten on a logarithmic axis, in a short one also 2 and 5 times them."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            factors = (1, 2, 5) if last - first <= 2 else (1,)
            every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            return [value for value in every if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
        step = round_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is no smaller than `least`; 1 if that is not above 0."""
    if not least > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Curve:
    """Points of one kind. `band` gives the lower and the upper end of an area around each point."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True  # False: markers alone
    band: Sequence[tuple[float, float]] = ()


def xy_chart(text: str, x: Axis, y: Axis, curves: Sequence[Curve], diagonal: bool = False) -> Markup:
    """Curves over a horizontal axis. `text` is the text alternative; `diagonal` draws the line on which both values are equal."""
    keys = list(_key_lines([curve.name for curve in curves])) if len(curves) > 1 else []
    top = TOP + KEY_LINE * len(keys)
    height = HEIGHT + KEY_LINE * len(keys)

    def place(at: tuple[float, float]) -> tuple[float, float]:
        across, up = x.share(at[0]), y.share(at[1])
        return LEFT + across * (WIDTH - LEFT - RIGHT), height - BOTTOM - up * (height - BOTTOM - top)

    parts = [*_axes(x, y, place, top, height)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(Markup('<path class="guide" d="{}"/>').format(_path([place((low, low)), place((high, high))])))
    for number, curve in enumerate(curves):
        parts.append(_drawn(number, curve, place))
    for line, keyed in enumerate(keys):
        for number, left, name in keyed:
            middle = TOP + KEY_LINE * line + 4
            sample = _drawn(number, Curve(name, [(left, middle), (left + 24, middle)], curves[number].line), lambda at: at)
            parts.append(sample + Markup('<text x="{:.0f}" y="{:.0f}">{}</text>').format(left + 32, middle + 4, name))
    return _svg(text, height, parts)


def _axes(
    x: Axis, y: Axis, place: Callable[[tuple[float, float]], tuple[float, float]], top: int, height: int
) -> Iterator[Markup]:
    left, low = place((x.low, y.low))
    for tick in y.ticks():
        _, at = place((x.low, tick))
        yield Markup('<path class="rule" d="M{:.1f} {:.1f}H{}"/>').format(left, at, WIDTH - RIGHT)
        yield _label(left - 6, at + 4, y.text(tick), "end")
    for tick in x.ticks():
        at, _ = place((tick, y.low))
        yield Markup('<path class="axis" d="M{:.1f} {:.1f}v4"/>').format(at, low)
        yield _label(at, low + 16, x.text(tick), "middle")
    yield Markup('<path class="axis" d="M{:.1f} {}V{:.1f}H{}"/>').format(left, top, low, WIDTH - RIGHT)
    yield _label((LEFT + WIDTH - RIGHT) / 2, height - 6, x.label, "middle")
    middle = (top + height - BOTTOM) / 2
    yield Markup('<text x="12" y="{0:.1f}" text-anchor="middle" transform="rotate(-90 12 {0:.1f})">{1}</text>').format(
        middle, y.label
    )


def _drawn(number: int, curve: Curve, place: Callable[[tuple[float, float]], tuple[float, float]]) -> Markup:
    parts = []
    if curve.band:
        lower = [place((x, low)) for (x, _), (low, _) in zip(curve.points, curve.band, strict=True)]
        upper = [place((x, high)) for (x, _), (_, high) in zip(curve.points, curve.band, strict=True)]
        parts.append(Markup('<path class="band" d="{}z"/>').format(_path([*lower, *reversed(upper)])))
    places = [place(point) for point in curve.points]
    if curve.line and len(places) > 1:
        dash = DASHES[number % COLOURS]
        dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else ""
        parts.append(Markup('<path class="curve"{} d="{}"/>').format(dashed, _path(places)))
    marks = places if len(places) > 2 or not curve.line else places[:1] + places[-1:]
    parts += [_marker(number, *at) for at in marks]
    return Markup('<g class="s{}">{}</g>').format(number % COLOURS, Markup("").join(parts))


def _marker(number: int, x: float, y: float) -> Markup:
    """A circle, a square, two triangles, or a diamond."""
    shapes = (
        "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0",
        "m-3-3h6v6h-6z",
        "m0-4l4 7h-8z",
        "m0 4l4-7h-8z",
        "m0-4l4 4l-4 4l-4-4z",
    )
    return Markup('<path class="mark" d="M{:.1f} {:.1f}{}"/>').format(x, y, shapes[number % COLOURS])


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _key_lines(names: Sequence[str]) -> Iterator[list[tuple[int, float, str]]]:
    """The key: lines of (number of the curve, left end, name)."""
    line: list[tuple[int, float, str]] = []
    left = float(LEFT)
    for number, name in enumerate(names):
        width = 44 + len(name) * CHARACTER
        if line and left + width > WIDTH:
            yield line
            line, left = [], float(LEFT)
        line.append((number, left, name))
        left += width
    yield line


def _svg(text: str, height: float, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" xmlns="http://www.w3.org/2000/svg">{}</svg>').format(
        text, WIDTH, height, Markup("").join(parts)
    )
