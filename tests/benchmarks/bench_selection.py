"""Compare selection rules on the candidates of runs with known answers: which attempts would each rule have chosen?

    python tests/benchmarks/bench_selection.py RUN... [--against product_of_experts]

A case is the state of a query after one of its passes, pooled as the run pools it: all candidates so far, the newest scores, and
what programs of the run answer.
There are two Markdown tables: one for the last pass of every query, one for all passes (the cases of one query are not
independent). They show how often the first attempt is right, how often one of the two is, and the cases that a rule gains and
loses compared with the rule `--against`. The last line is the result of a perfect choice among the candidates.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solver.arc.datasets import load_solutions
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES, newest_scores, select
from solver.arc.tally import Tally
from solver.errors import InputError
from solver.run.ledger import LEDGER, Ledger
from solver.types import Candidate, Score


@dataclass(frozen=True, eq=False)
class Case:
    """The candidates and scores of a query after a pass, and its answer."""

    candidates: Sequence[Candidate]
    scores: Sequence[Score]
    answer: Grid
    last: bool  # whether it is after the query's last pass

    def place(self, rule: str) -> int:
        """Which attempt is right, 0 or 1; 2 if neither is."""
        keys = [grid_key(grid) for grid in select(rule, Tally.of(self.candidates), self.scores)]
        return keys.index(grid_key(self.answer)) if grid_key(self.answer) in keys else 2

    @property
    def has_answer(self) -> bool:
        """Whether a candidate is the answer."""
        return grid_key(self.answer) in {grid_key(candidate.grid) for candidate in self.candidates}


def read_cases(folder: Path) -> list[Case]:
    """The cases of a run that was started with its solutions. Raises InputError."""
    with closing(Ledger.read(folder / LEDGER)) as ledger:
        facts, outcomes = ledger.facts(), ledger.outcomes()
        programs = {searched.task_id: searched.answers for searched in ledger.program_outcomes()}
    if not facts.solutions:
        raise InputError(f"{folder}: its answers are not known")
    answers = load_solutions(facts.solutions)
    pooled: dict[tuple[str, int], list[Case]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.wave):
        for query in outcome.queries:
            answer = answers[outcome.task_id][query.index]
            passes = pooled.setdefault((outcome.task_id, query.index), [])
            found = programs[outcome.task_id][query.index] if outcome.task_id in programs else ()
            before = ([*passes[-1].candidates], [*passes[-1].scores]) if passes else ([*found], [])
            if answer is not None and query.candidates:
                passes.append(Case([*before[0], *query.candidates], [*before[1], *query.scores], answer, False))
    cases = []
    for passes in pooled.values():
        for case in passes:
            cases.append(Case(case.candidates, newest_scores(case.scores), case.answer, case is passes[-1]))
    return cases


def print_table(cases: Sequence[Case], against: str) -> None:
    """One line for every rule."""
    places: dict[str, NDArray[np.int64]] = {rule: np.array([case.place(rule) for case in cases]) for rule in RULES}
    reference = places[against]
    print("| rule | first attempt right | one of two right | first: gained, lost | two: gained, lost |")
    print("| --- | --- | --- | --- | --- |")
    for rule, place in places.items():
        cells = [f"{np.mean(place <= most):.1%} ({np.sum(place <= most)})" for most in (0, 1)]
        for most in (0, 1):
            gained, lost = ((place <= most) & (reference > most)).sum(), ((place > most) & (reference <= most)).sum()
            cells.append("" if rule == against else f"+{gained} -{lost}")
        print(f"| {rule} | " + " | ".join(cells) + " |")
    possible = np.array([case.has_answer for case in cases])
    print(f"| a perfect choice | {possible.mean():.1%} ({possible.sum()}) | {possible.mean():.1%} ({possible.sum()}) | | |\n")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--against", choices=list(RULES), default="product_of_experts")
    given = parser.parse_args()
    cases = [case for folder in given.runs for case in read_cases(folder)]
    last = [case for case in cases if case.last]
    print(f"{len(last)} queries, after their last pass:\n")
    print_table(last, given.against)
    if len(last) < len(cases):
        print(f"{len(cases)} cases, after every pass of these queries:\n")
        print_table(cases, given.against)


if __name__ == "__main__":
    main()
