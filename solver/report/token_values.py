"""One HTML page that colours every token of sampled solutions by the verifier's value after it. It needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from solver.report.html_page import Section, html_page, render


@dataclass(frozen=True)
class ShownSolution:
    """A solution as the page shows it."""

    tokens: tuple[str, ...]  # the text of each token
    values: tuple[float, ...]  # the value after each token
    score: float
    correct: bool
    answer: str | None

    def coloured(self) -> list[tuple[str, float]]:
        """Each token with the value after it."""
        return list(zip(self.tokens, self.values, strict=True))


@dataclass(frozen=True)
class ShownProblem:
    """A problem with some of its solutions, the best first."""

    title: str
    question: str
    answer: str
    solutions: tuple[ShownSolution, ...]


def as_page(title: str, head: Sequence[str], problems: Sequence[ShownProblem]) -> str:
    """The page: lines about what is shown, a key of the colours, and every problem with its solutions."""
    key = [(f" {tenth / 10:g} ", tenth / 10) for tenth in range(11)]
    sections = [Section("key", "Colours", [render("token_key.html", tokens=key, colour=colour)])]
    for number, problem in enumerate(problems):
        body = render("token_values.html", problem=problem, colour=colour)
        sections.append(Section(f"problem-{number}", problem.title, [body]))
    return html_page(title, head, sections)


def colour(value: float) -> str:
    """A CSS colour: red for 0, white for 1/2, green for 1. Values outside of 0 to 1 get the colour of the nearer end."""
    value = min(1.0, max(0.0, value)) if value == value else 0.5
    red, green, blue = (214, 60, 60) if value < 0.5 else (60, 170, 80)
    strength = abs(2 * value - 1)
    return "#" + "".join(f"{round(255 + strength * (part - 255)):02x}" for part in (red, green, blue))
