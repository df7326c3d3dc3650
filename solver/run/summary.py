"""Makes the summary of a run, which `summary.json` holds, from its state, its ledger and facts about the machine."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solver.arc.grid import Grid
from solver.arc.submission import Submission, score
from solver.budget.costs import LEARNING, prediction_errors
from solver.host import hardware, versions
from solver.messages import WorkerFacts
from solver.report.results import Summary, exact_queries, task_results
from solver.run.ledger import Ledger
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.run.types import RunOptions


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    exit_code: int
    reason: str
    seconds: float  # wall clock since the start
    budget: float  # seconds


def summarise(
    options: RunOptions,
    ended: Ended,
    run_state: RunState,
    ledger: Ledger,
    supervisor: Supervisor,
    model: str,
    answers: Mapping[str, Sequence[Grid | None]],
    source: str,
) -> Summary:
    """The summary of a run; `answers` may lack tasks, or be empty; `source` is what `commit` gave."""
    totals = run_state.totals()
    states, programs = run_state.states(), run_state.program_outcomes()
    facts = supervisor.facts or WorkerFacts(trainer="", engine="")
    return Summary(
        exit_code=ended.exit_code,
        reason=ended.reason,
        tasks=len(run_state.submission),
        queries=sum(map(len, run_state.submission.values())),
        done=run_state.done() if options.settings.network else len(programs),
        failed=run_state.failed(),
        waves=max((state.waves for state in states), default=0),
        seconds=ended.seconds,
        budget=ended.budget,
        trainer=facts.trainer,
        engine=facts.engine,
        dtype=facts.dtype,
        device=facts.device,
        steps=totals.steps,
        trained_tokens=totals.trained,
        prompt_tokens=totals.prompt,
        sampled_tokens=totals.sampled,
        trained_rate=totals.trained_rate,
        sampled_rate=totals.sampled_rate,
        peak_memory_worker=supervisor.peak_memory,
        peak_memory_supervisor=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        phases=phase_seconds(ledger),
        agreement=run_state.agreement(),
        events=dict(Counter(event.kind for event in ledger.events())),
        scores=known_scores(run_state.submission, answers),
        model=model,
        recipe=options.recipe or "default",
        machine=options.machine or "",
        settings=options.settings.model_dump(mode="json"),
        versions=versions(),
        hardware=hardware(facts.to_json()),
        commit=source,
        programs_searched=len(programs),
        programs_exact=sum(exact_queries(outcome) == len(outcome.answers) for outcome in programs.values()),
        programs_seconds=sum(outcome.seconds for outcome in programs.values()),
        results=tuple(task_results(run_state.outcomes(), run_state.submission, answers, programs)),
    )


def phase_seconds(ledger: Ledger) -> dict[str, dict[str, float]]:
    """Planned and used seconds by phase, and the median error of the predictions without the first tasks (`LEARNING`)."""
    phases = {phase: {"planned": planned, "used": used} for phase, (planned, used) in ledger.timings().items()}
    for phase, error in prediction_errors(ledger.forecasts(), skip=LEARNING).items():
        phases[phase]["error"] = error
    return phases


def known_scores(submission: Submission, answers: Mapping[str, Sequence[Grid | None]]) -> dict[str, Any]:
    """Scores over the tasks whose answers are known; empty if none is."""
    known = {id_: answers[id_] for id_ in submission if id_ in answers}
    return dict(score({id_: submission[id_] for id_ in known}, known)) if known else {}
