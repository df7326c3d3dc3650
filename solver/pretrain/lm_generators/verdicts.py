"""What became of a completion: the reasons for which one is refused, in the order in which they are asked, and counts of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

KEPT = "kept"

# (what the completions that pass have in common, {reason of those that do not: what it means})
STAGES: tuple[tuple[str, dict[str, str]], ...] = (
    ("hold a program", {"no code": "no whole block of code, or no description in the first of two stages"}),
    (
        "ran",
        {
            "syntax": "not a Python program",
            "import": "imports a module that is not allowed",
            "no generate": "defines no function generate",
            "error": "raised an error too often",
            "time": "took too long",
            "memory": "took too much memory",
            "system call": "asked the system for more than computing",
            "crash": "ended its process",
            "answer": "wrote something else than an answer, or too much",
        },
    ),
    ("gave grids in bounds", {"bounds": "something is no grid of 1 to 30 rows and columns with colours 0 to 9"}),
    ("are deterministic", {"random": "the same seed gave another pair in another process and order"}),
    (
        "are varied",
        {
            "few inputs": "different seeds gave the same inputs",
            "unchanged": "outputs are the inputs",
            "few outputs": "almost all outputs are the same",
        },
    ),
    ("have one output for an input", {"contradiction": "the same input had different outputs"}),
    ("are no evaluation task", {"evaluation task": "a pair is in an evaluation set of ARC-AGI"}),
    ("are new", {"duplicate": "gives pairs of an example, or of another generator"}),
)
REASONS = tuple(reason for _, reasons in STAGES for reason in reasons)


class Refused(Exception):
    """A completion gives no generator. `reason` is one of REASONS, `detail` says more, for people, in one line."""

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    @property
    def told(self) -> str:
        """The reason with its detail."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(frozen=True)
class Funnel:
    """How many completions passed each stage."""

    verdicts: Counter[str]  # KEPT, or a reason

    @staticmethod
    def of(verdicts: Iterable[str]) -> Funnel:
        """The counts of verdicts."""
        return Funnel(Counter(verdicts))

    def passed(self) -> list[tuple[str, int]]:
        """(stage, completions that passed it and all before it)."""
        left, found = self.verdicts.total(), []
        for stage, reasons in STAGES:
            left -= sum(self.verdicts[reason] for reason in reasons)
            found.append((stage, left))
        return found

    def line(self) -> str:
        """The counts in one line."""
        return ", ".join([f"{self.verdicts.total():,} completions", *(f"{count:,} {stage}" for stage, count in self.passed())])

    def table(self) -> str:
        """The counts, with those of every reason, as a Markdown table."""
        rows = [f"| completions | {self.verdicts.total()} | |"]
        for (stage, count), (_, reasons) in zip(self.passed(), STAGES, strict=True):
            refused = [f"{self.verdicts[name]} {name} ({what})" for name, what in reasons.items() if self.verdicts[name]]
            rows.append(f"| {stage} | {count} | {'; '.join(refused)} |")
        return "\n".join(["| completions that | number | refused here |", "| --- | --- | --- |", *rows]) + "\n"
