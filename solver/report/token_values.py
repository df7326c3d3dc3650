"""One HTML page that colours every token of sampled solutions by the verifier's value after it. It needs no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from solver.report.html_page import html_page


@dataclass(frozen=True)
class ShownSolution:
    """A solution as the page shows it."""

    tokens: tuple[str, ...]  # the text of each token
    values: tuple[float, ...]  # the value after each token
    score: float
    correct: bool
    answer: str | None


@dataclass(frozen=True)
class ShownProblem:
    """A problem with some of its solutions, the best first."""

    title: str
    question: str
    answer: str
    solutions: tuple[ShownSolution, ...]


def as_page(title: str, head: Sequence[str], problems: Sequence[ShownProblem]) -> str:
    """The page: lines about what is shown, a key of the colours, and every problem with its solutions."""
    key = "".join(_token(f" {tenth / 10:g} ", tenth / 10) for tenth in range(11))
    body = "\n".join(_problem(problem) for problem in problems)
    return html_page(title, _STYLE, head, f'<p>value: <span class="text">{key}</span></p>\n{body}')


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222;background:#fff;max-width:70em}"
    "section{border-top:1px solid #ccc;margin-top:1.5em}"
    "pre,.text{font-family:monospace;white-space:pre-wrap}"
    "article{margin:.8em 0;padding-left:.6em;border-left:4px solid #b01010}article.right{border-color:#167a16}"
    "article p{margin:0;font-size:12px;color:#555}"
)


def colour(value: float) -> str:
    """A CSS colour: red for 0, white for 1/2, green for 1. Values outside of 0 to 1 get the colour of the nearer end."""
    value = min(1.0, max(0.0, value)) if value == value else 0.5
    red, green, blue = (214, 60, 60) if value < 0.5 else (60, 170, 80)
    strength = abs(2 * value - 1)
    return "#" + "".join(f"{round(255 + strength * (part - 255)):02x}" for part in (red, green, blue))


def _problem(problem: ShownProblem) -> str:
    solutions = "".join(_solution(solution) for solution in problem.solutions)
    return (
        f"<section><h2>{escape(problem.title)}</h2><pre>{escape(problem.question)}</pre>"
        f"<p>reference answer: {escape(problem.answer)}</p>{solutions}</section>"
    )


def _solution(solution: ShownSolution) -> str:
    tokens = "".join(_token(text, value) for text, value in zip(solution.tokens, solution.values, strict=True))
    answer = "no answer" if solution.answer is None else f"answer {solution.answer}"
    verdict = f"score {solution.score:.3f}, {answer}: {'right' if solution.correct else 'wrong'}"
    right = ' class="right"' if solution.correct else ""
    return f'<article{right}><p>{escape(verdict)}</p><div class="text">{tokens}</div></article>'


def _token(text: str, value: float) -> str:
    return f'<span style="background:{colour(value)}" title="{value:.3f}">{escape(text)}</span>'
