"""The pictures of a scored file of samples: curves over samples and votes, and a page of coloured solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from solver.model.load import load_tokenizer
from solver.report.curves import SharePoint, plot_shares
from solver.report.html_page import write_page
from solver.report.token_values import ShownProblem, ShownSolution, as_page
from solver.verify.compare import Point
from solver.verify.pooling import pool
from solver.verify.scoring import ScoredProblem

Report = Callable[[str], None]
TextOf = Callable[[Sequence[int]], tuple[str, ...]]  # token ids -> the text of each


def plot(curves: Mapping[str, Sequence[Point]], over: str, title: str, picture: Path, report: Report) -> None:
    """Accuracy over the number `over`, a line for each rule, as a PNG."""
    drawn = {name: [SharePoint(one.at, one.share, *one.interval) for one in points] for name, points in curves.items()}
    plot_shares(drawn, over, "problems solved, %", title, picture, report)


def token_texts(folder: Path) -> TextOf:
    """A function that gives the text of each token, by the tokenizer of a model folder. Raises InputError."""
    tokenizer = load_tokenizer(folder)
    return lambda ids: tuple(tokenizer.decode([id_], skip_special_tokens=False) for id_ in ids)


def write_solutions(
    scored: Sequence[ScoredProblem], texts: TextOf, pooling: str, path: Path, title: str, problems: int = 20, solutions: int = 6
) -> None:
    """Write a page of the first problems: of each the highest and the lowest scored different solutions. Raises InputError."""
    shown = [_shown(one, texts, pooling, solutions) for one in scored[:problems]]
    head = (
        "Every token is coloured by the verifier's value after it: the chance, as the verifier sees it, that the solution ends "
        "with the right answer. The bar beside a solution is green if its answer is right, and dashed and red if it is not.",
        f"Score of a solution: {pooling}. Of each problem the solutions with the highest and the lowest scores are shown.",
    )
    write_page(path, as_page(title, head, shown))


def _shown(one: ScoredProblem, texts: TextOf, pooling: str, solutions: int) -> ShownProblem:
    different = {sample.ids: (sample, values) for sample, values in zip(one.samples, one.values, strict=True)}
    order = sorted(different.values(), key=lambda pair: -pool(pooling, pair[1]))
    if len(order) > solutions:
        order = [*order[: solutions - solutions // 2], *order[len(order) - solutions // 2 :]]
    chosen = tuple(
        ShownSolution(
            texts(sample.ids), tuple(float(value) for value in values), pool(pooling, values), sample.correct, sample.answer
        )
        for sample, values in order
    )
    return ShownProblem(one.problem.id, "".join(texts(one.problem.prompt)), one.problem.answer, chosen)
