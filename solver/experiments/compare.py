"""Puts the rows of an experiment together: what each arm solved, how it compares with another, and what its source says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from solver.experiments.arms import Arm, ArmTable, Experiment
from solver.experiments.conduct import Conducted
from solver.experiments.planned import Subject
from solver.experiments.rows import LossRow, ResultFile, ResultRow
from solver.experiments.tasks import content_digest, count_facts
from solver.report.arms_table import ArmComparison, ArmLine, ArmsReport, LossComparison, statements, verdict
from solver.report.paired import PairedShares

Results = Mapping[str, Sequence[ResultRow]]  # by content of the task: the rows of all seeds
Losses = Mapping[str, Sequence[LossRow]]


@dataclass(frozen=True, eq=False)
class _Arm:
    """What is known of an arm of one model."""

    name: str
    results: Results
    losses: Losses


@dataclass(frozen=True, eq=False)
class _Reader:
    """Finds the rows of the arms of one model in one table."""

    subject: Subject
    table: ArmTable
    done: Conducted
    rows: ResultFile

    def keys(self, arm: Arm) -> list[str]:
        """One for each seed."""
        return [self.done.study.key(self.subject, self.table, arm, seed) for seed in self.done.study.seeds]

    def results(self, arm: Arm) -> Results:
        """The rows of an arm, by task, for the tasks that every seed has a row of."""
        keys = self.keys(arm)
        found: dict[str, list[ResultRow]] = {}
        for task in self.done.study.tasks:
            content = content_digest([task])
            of_task = [row for key in keys if (row := self.rows.row(key, content)) is not None]
            if len(of_task) == len(keys):
                found[content] = of_task
        return found

    def losses(self, arm: Arm) -> Losses:
        """The losses of an arm, by task, for the tasks that every seed has a loss of; none in a table without losses."""
        keys = self.keys(arm) if self.table.losses else []
        found: dict[str, list[LossRow]] = {}
        for content in map(content_digest, ([task] for task in self.done.study.tasks)):
            of_task = [loss for key in keys if (loss := self.rows.loss(key, content)) is not None]
            if of_task and len(of_task) == len(keys):
                found[content] = of_task
        return found

    def failure(self, arm: Arm) -> str:
        """Why tasks lack a result."""
        keys = set(self.keys(arm))
        return "; ".join(
            sorted({run.failure for run in self.done.runs if run.failure and any(one.key in keys for one in run.arms)})
        )


def reports(
    experiment: Experiment, subjects: Sequence[Subject], done: Conducted, rows: ResultFile, tasks: str, reference: str = ""
) -> list[ArmsReport]:
    """A report for each table, over all models. `tasks` says which tasks were asked, in words.

    With a `reference`, the arms of the other models are compared with the same arm of that model.
    """
    return [_report(number, experiment, subjects, done, rows, tasks, reference) for number in range(len(experiment.tables))]


def _report(
    number: int,
    experiment: Experiment,
    subjects: Sequence[Subject],
    done: Conducted,
    rows: ResultFile,
    tasks: str,
    reference: str,
) -> ArmsReport:
    lines: list[ArmLine] = []
    used: list[ResultRow] = []
    bases: dict[tuple[str, ...], list[str]] = {}
    of_reference: dict[str, _Arm] = {}
    for subject in sorted(subjects, key=lambda one: one.name != reference):
        reader = _Reader(subject, subject.tables[number], done, rows)
        bases.setdefault(reader.table.base, []).append(subject.name)
        found = {arm.name: _Arm(arm.name, reader.results(arm), reader.losses(arm)) for arm in reader.table.arms}
        if subject.name == reference:
            of_reference = {name: replace(one, name=reference) for name, one in found.items()}
        for arm in reader.table.arms:
            other = found[arm.against] if arm.against else None
            if of_reference and subject.name != reference:
                other = of_reference[arm.name]
            lines.append(_line(arm, reader, found[arm.name], other))
        used += [row for one in found.values() for of_task in one.results.values() for row in of_task]
    table = subjects[0].tables[number]
    facts = (
        f"{tasks}; seeds {', '.join(map(str, done.study.seeds))}; policy `fixed`, recipe `{table.recipe}`, one pass a task.",
        *(f"All arms of {', '.join(names)}: {_settings(base)}." for base, names in bases.items() if base),
        *([f"Set by the user: {_settings(given)}."] if (given := done.study.circumstances.overrides) else []),
        count_facts(done.study.tasks),
        f"Hardware: {'; '.join(sorted({row.hardware for row in used})) or 'none'}. "
        f"Commit {', '.join(sorted({_short(row.commit) for row in used})) or 'none'}.",
        "Intervals of shares are 95 % (Wilson). Differences are paired by task; p is of the exact sign test.",
    )
    said = (*statements(lines), *_lowest(table, lines))
    return ArmsReport(table.title, experiment.source, table.note, facts, tuple(lines), said)


def _line(arm: Arm, reader: _Reader, found: _Arm, other: _Arm | None) -> ArmLine:
    mine = found.results
    every = [row for of_task in mine.values() for row in of_task]
    compared = None if other is None else _compare(mine, other.results, other.name)
    losses = mean_loss([loss for of_task in found.losses.values() for loss in of_task])
    return ArmLine(
        arm=arm.name,
        model=reader.subject.name,
        change=arm.change,
        tasks=len(mine),
        tasks_solved=_sum_of_means(mine, lambda row: all(row.solved)),
        inputs=sum(len(of_task[0].solved) for of_task in mine.values()),
        inputs_solved=_sum_of_means(mine, lambda row: sum(row.solved)),
        first_solved=_sum_of_means(mine, lambda row: sum(row.first)),
        compared=compared,
        source=arm.source,
        verdict=verdict(arm.effect, compared),
        steps=_mean([row.steps for row in every]),
        tokens=_mean([row.tokens for row in every]),
        seconds=_mean([row.seconds for row in every]),
        nats=None if losses is None else losses[0],
        nats_token=None if losses is None else losses[1],
        loss_compared=None if other is None else compare_losses(found.losses, other.losses),
        failure=reader.failure(arm) if len(mine) < len(reader.done.study.tasks) else "",
    )


def _settings(given: Sequence[str]) -> str:
    """Settings as key=value in the order in which they were first given; of several values of a key the last counts."""
    return " ".join(f"`{text}`" for text in {text.partition("=")[0]: text for text in given}.values())


def _compare(first: Results, second: Results, against: str) -> ArmComparison:
    """Tasks that both have; the result of a task is its mean over seeds."""
    both = [content for content in first if content in second]
    paired = PairedShares.of(
        *([_mean([all(row.solved) for row in side[content]]) for content in both] for side in (first, second))
    )
    low, high = paired.interval()
    signs = paired.signs
    return ArmComparison(against, len(both), paired.difference, low, high, signs.better, signs.worse, paired.p())


def compare_losses(first: Losses, second: Losses) -> LossComparison | None:
    """Nats an answer of the first arm less those of the second, by task; None without a task that both have."""
    both = [content for content in first if content in second]
    pairs = [(_nats(first[content]), _nats(second[content])) for content in both]
    apart = np.array([a - b for a, b in pairs if np.isfinite(a) and np.isfinite(b)])
    if not len(apart):
        return None
    error = float(apart.std(ddof=1) / len(apart) ** 0.5) if len(apart) > 1 else float("inf")
    return LossComparison(len(apart), float(apart.mean()), error, float(np.median(apart)), int((apart < 0).sum()))


def _nats(losses: Sequence[LossRow]) -> float:
    """The mean over the answers of a task, and over seeds."""
    return _mean([nats for loss in losses for nats in loss.nats])


def mean_loss(losses: Sequence[LossRow]) -> tuple[float, float] | None:
    """Nats an answer, and nats a token, over all test inputs with a loss; None without any."""
    pairs = [pair for row in losses for pair in zip(row.nats, row.tokens, strict=True) if np.isfinite(pair[0])]
    if not pairs:
        return None
    nats, tokens = (float(sum(column)) for column in zip(*pairs, strict=True))
    return nats / len(pairs), nats / tokens


def _lowest(table: ArmTable, lines: Sequence[ArmLine]) -> list[str]:
    """What the source says of the weakest of several arms, and what was measured, for each model."""
    if table.lowest is None:
        return []
    said = []
    for model in dict.fromkeys(line.model for line in lines):
        mine = [line for line in lines if line.model == model and line.arm in table.lowest.among and line.tasks]
        if not mine:
            continue
        fewest = min(line.tasks_solved / line.tasks for line in mine)
        weakest = [line.arm for line in mine if line.tasks_solved / line.tasks == fewest]
        agree = "agrees" if weakest == [table.lowest.arm] else "one of several" if table.lowest.arm in weakest else "disagrees"
        said.append(
            f"The weakest {table.lowest.kind} of the source is {table.lowest.arm}; measured ({model}): {', '.join(weakest)}, "
            f"{100 * fewest:.1f} % of tasks: {agree}."
        )
    return said


def _sum_of_means(results: Results, value: Callable[[ResultRow], float]) -> float:
    """The sum over tasks of the mean over seeds."""
    return round(sum(_mean([value(row) for row in of_task]) for of_task in results.values()), 6)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _short(commit: str) -> str:
    return (commit[:7] + ("+" if commit.endswith("+") else "")) or "unknown"
