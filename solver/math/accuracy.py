"""How often a generator answers problems right: greedily, with one sample, and with at least one of several.

Source: Cobbe et al. 2021 (arXiv 2110.14168), section 4.1 and figure 3, for test@N. There test@1 is greedy; here it is the
expected accuracy of one sample, and the greedy accuracy is a number of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from solver.infer.base import Engine
from solver.math.drawing import DrawOptions, draw
from solver.math.problems import MathProblem
from solver.math.tokens import MathTokenizer
from solver.report.scores import wilson
from solver.types import Deadline


@dataclass(frozen=True)
class Accuracy:
    """Counts over the problems that were answered before the deadline."""

    problems: int = 0
    greedy: int = 0  # problems that the greedy solution answers right
    guesses: int = 0  # samples of each problem
    sampled: int = 0  # problems whose samples were drawn
    right_samples: int = 0  # of guesses * sampled
    solved: int = 0  # problems with at least one right sample: test@N

    @property
    def test_at_1(self) -> float:
        """The share of samples that are right."""
        return self.right_samples / max(1, self.guesses * self.sampled)

    def text(self) -> str:
        """One line with 95 % intervals."""
        parts = [f"greedy {_share(self.greedy, self.problems)}"]
        if self.guesses:
            parts.append(f"test@1 {self.test_at_1:.1%}")
            parts.append(f"test@{self.guesses} {_share(self.solved, self.sampled)}")
        return ", ".join(parts)


def _share(hits: int, total: int) -> str:
    low, high = wilson(hits, total)
    return f"{hits} of {total}: {hits / max(1, total):.1%} ({100 * low:.1f} to {100 * high:.1f})"


def measure(
    engine: Engine,
    tokenizer: MathTokenizer,
    problems: Sequence[MathProblem],
    options: DrawOptions,
    deadline: Deadline,
    report: Callable[[str], None] = lambda _: None,
) -> Accuracy:
    """The accuracy on `problems`, with `options.samples` guesses each (0: greedy alone)."""
    found = Accuracy(guesses=options.samples)
    for drawn in draw(engine, tokenizer, problems, replace(options, samples=1, temperature=0.0), deadline):
        found = replace(found, problems=found.problems + 1, greedy=found.greedy + drawn.samples[0].correct)
        if found.problems % 64 == 0:
            report(f"greedy: {found.greedy} of {found.problems} right")
    if not options.samples:
        return found
    for drawn in draw(engine, tokenizer, problems, options, deadline):
        right = sum(sample.correct for sample in drawn.samples)
        found = replace(
            found,
            sampled=found.sampled + 1,
            right_samples=found.right_samples + right,
            solved=found.solved + (right > 0),
        )
        if found.sampled % 64 == 0:
            report(f"sampled {found.sampled} of {len(problems)} problems")
    return found
