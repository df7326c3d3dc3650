"""`solver fit-ensemble`: learns from runs with known answers which grids of the network and of programs are right.

The runs may be one of both engines, or runs of the network and runs of program search over the same tasks. A query has a case
after each pass of the network, pooled as the run pools it, and one without the network; together they have the weight 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from solver.arc.datasets import Answers
from solver.arc.ensemble import Case, Ensemble, features, fit, save_ensemble
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES
from solver.arc.tally import ScoreTable, Tally
from solver.commands.record import known_answers
from solver.commands.select import PastRun, read_run
from solver.errors import InputError
from solver.run.ledger import LEDGER, Ledger

FOLDS = 5  # of the tasks, for judging the fit: each is chosen for by what was fitted to the others


@dataclass(frozen=True, eq=False)
class Stage:
    """A query with a known answer, as far as a run had come: the ranking of the network, its votes, and programs."""

    task: str
    query: int
    ranked: tuple[Grid, ...]  # the first two of the network
    tally: Tally
    answer: bytes  # its grid key
    last: bool  # whether it is after the last pass of the network, or there was none
    searched: bool  # whether programs were searched for its task

    def case(self, weight: float) -> Case:
        """For fitting."""
        table = features(self.ranked, self.tally)
        keys = list(table)
        right = keys.index(self.answer) if self.answer in table else None
        return Case(np.array(list(table.values())), right, weight)

    def by_network(self) -> bool:
        """Whether one of the two grids of the network is right."""
        return self.answer in {grid_key(grid) for grid in self.ranked}

    def by_programs(self, ensemble: Ensemble) -> bool:
        """Whether one of the two best grids of programs is right."""
        alone = ensemble.chances((), Tally(programs=self.tally.programs))
        return self.answer in {grid_key(one.grid) for one in alone[:2]}

    def by_both(self, ensemble: Ensemble) -> bool:
        """Whether one of the two grids that the ensemble chooses is right."""
        if not self.tally.programs:
            return self.by_network()
        return self.answer in {grid_key(one.grid) for one in ensemble.chances(self.ranked, self.tally)[:2]}


def fit_ensemble(folders: Sequence[Path], solutions: str | None, out: Path, tell: Callable[[str], None]) -> str:
    """Fit the ensemble to runs and write it to `out`; gives a line for people, and tells how well it chooses.

    Raises InputError if a run cannot be read or has no known answers, if no program was found for a known answer's query, or if
    `out` cannot be written.
    """
    runs = [read_run(folder) for folder in folders]
    stages = list(stages_of(runs, answers_of(runs, solutions)))
    cases = _cases(stages)
    if not cases:
        raise InputError("these runs have no programs for test inputs with known answers")
    tasks = sorted({stage.task for stage in stages if stage.tally.programs})
    fitted = fit(
        [case for some in cases.values() for case in some], f"{len(tasks)} tasks of {', '.join(f.name for f in folders)}"
    )
    for line in judged(stages, cases):
        tell(line)
    save_ensemble(out, fitted)
    return f"{out}: ensemble, fitted to {fitted.fitted_on}"


def answers_of(runs: Sequence[PastRun], solutions: str | None) -> Answers:
    """The known answers of the runs; of a task with several those of the first run. Raises InputError if a run has none."""
    answers: Answers = {}
    for run in runs:
        with closing(Ledger.read(run.folder / LEDGER)) as ledger:
            answers = {**known_answers(run.folder, ledger.facts(), solutions), **answers}
    return answers


def stages_of(runs: Sequence[PastRun], answers: Answers) -> Iterator[Stage]:
    """Every query with a known answer that program search or the network had: without the network, and after each pass."""
    programs: dict[tuple[str, int], Tally] = {}
    for run in runs:
        for searched in run.programs:
            for index, found in enumerate(searched.answers):
                programs[searched.task_id, index] = programs.get((searched.task_id, index), Tally()).plus(found)
    asked = {(outcome.task_id, query.index) for run in runs for outcome in run.outcomes for query in outcome.queries}
    for key, alone in programs.items():
        if (answer := _answer(answers, *key)) is not None:
            yield Stage(*key, (), alone, answer, last=key not in asked, searched=True)
    for run in runs:
        rule = RULES[run.rule]
        passes: dict[str, list[int]] = {}
        for place, outcome in enumerate(run.outcomes):  # sorted by task and wave
            passes.setdefault(outcome.task_id, []).append(place)
        for task, places in passes.items():
            for index in range(len(run.outcomes[places[0]].queries)):
                if (answer := _answer(answers, task, index)) is None:
                    continue
                tally, scores = programs.get((task, index), Tally()), ScoreTable()
                for place in places:
                    query = run.outcomes[place].queries[index]
                    tally, scores = tally.plus(query.candidates), scores.plus(query.scores)
                    ranked = tuple(rule(tally, scores.newest()))[:2]
                    yield Stage(task, index, ranked, tally, answer, place == places[-1], (task, index) in programs)


def judged(stages: Sequence[Stage], cases: dict[str, list[Case]]) -> Iterator[str]:
    """Lines: queries that both engines worked on, solved by each and by both, fitted to other tasks than those chosen for."""
    last = [stage for stage in stages if stage.last and stage.searched and stage.ranked]
    names = sorted(cases)
    fold = {name: place % FOLDS for place, name in enumerate(names)}
    crossed = [fit([case for name in names if fold[name] != one for case in cases[name]], "") for one in range(FOLDS)]
    network = [stage.by_network() for stage in last]
    programs = [stage.by_programs(crossed[fold.get(stage.task, 0)]) for stage in last]
    either = [one or other for one, other in zip(network, programs, strict=True)]
    chosen = [stage.by_both(crossed[fold.get(stage.task, 0)]) for stage in last]
    yield f"{len(last)} test inputs that both worked on, after the last pass of the network; solved at two attempts:"
    yield f"by the network {sum(network)}, by programs {sum(programs)}, by either {sum(either)}"
    yield f"by two attempts of the ensemble {sum(chosen)} (fitted to other tasks)"


def _cases(stages: Sequence[Stage]) -> dict[str, list[Case]]:
    """The cases by task. Queries without programs need no ensemble."""
    counts: dict[tuple[str, int], int] = {}
    for stage in stages:
        counts[stage.task, stage.query] = counts.get((stage.task, stage.query), 0) + 1
    cases: dict[str, list[Case]] = {}
    for stage in stages:
        if stage.tally.programs:
            cases.setdefault(stage.task, []).append(stage.case(1 / counts[stage.task, stage.query]))
    return cases


def _answer(answers: Answers, task: str, index: int) -> bytes | None:
    answer = answers.get(task, ())[index] if index < len(answers.get(task, ())) else None
    return None if answer is None else grid_key(answer)
