"""Chooses how a verifier picks answers: on problems that it was not trained on, and that it is not measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from solver.verify.compare import RULES, solved
from solver.verify.pooling import POOLINGS
from solver.verify.scoring import ScoredProblem

VERIFIER_RULES = ("verifier", "verifier, vote of the top", "verifier, weighted vote")  # names in RULES


@dataclass(frozen=True)
class Procedure:
    """How the values of tokens become scores, and how scores choose among the samples of a problem."""

    rule: str  # one of VERIFIER_RULES
    pooling: str  # one of POOLINGS

    def solved(self, scored: Sequence[ScoredProblem]) -> list[bool]:
        """Whether it chooses a right answer, by problem."""
        return solved([one.judged(self.pooling) for one in scored], RULES[self.rule])

    def text(self) -> str:
        """Rule and pooling in words."""
        return f"{self.rule} (score: {self.pooling})"


def best_procedure(scored: Sequence[ScoredProblem]) -> Procedure:
    """The procedure that solves most of the problems; the first of equally good ones: simple rules and the last value come first.

    The paper chooses the number of voting samples in this way (Cobbe et al. 2021, arXiv 2110.14168, section 4.3).
    """
    procedures = [Procedure(rule, pooling) for rule in VERIFIER_RULES for pooling in POOLINGS]
    return max(procedures, key=lambda procedure: sum(procedure.solved(scored)))
