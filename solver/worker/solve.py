"""What a worker does with a work item: make training sequences, fit, infer, score, and report outcomes.

Each step is one call of the trainer or the engine for all tasks of the item. Tasks, views and the codec are known here; trainers
and engines see only token ids. Needs no torch itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from solver.arc.grid import Grid
from solver.arc.seeding import generator
from solver.arc.task import Task
from solver.arc.ttt_data import ttt_examples
from solver.arc.view import IDENTITY_COLOURS, View, random_colours
from solver.codec import Codec, TooLong
from solver.config import InferSettings, Settings
from solver.infer.base import Engine, EngineLost
from solver.messages import SharedFit
from solver.train.base import Trainer
from solver.types import (
    AdapterRef,
    Candidate,
    Deadline,
    Fit,
    FitJob,
    Result,
    SampleRequest,
    Score,
    ScoreRequest,
    SearchRequest,
    TaskOutcome,
    TokenSequence,
    WorkItem,
)
from solver.worker.device_turns import DeviceTurns
from solver.worker.job import Job, ViewPrompt, names, spread

# Shares of the time until an item's deadline, used if the item has no forecast (`WorkItem.keep`).
INFER_SHARE = 0.35  # of the item's time, for everything after the fit
PREPARE_SHARE = 0.25  # of the shared fit's time, for making the sequences of all tasks
SCORE_SHARE = 0.25  # of the time after the fit, for scoring

Report = Callable[[str], None]  # gets what the worker is doing, in words
R = TypeVar("R", SampleRequest, SearchRequest, ScoreRequest)


class Solver:
    """Works on items with one trainer and one engine. It keeps nothing from one item to the next."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        context: int,
        trainer: Trainer,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
        device_turns: DeviceTurns | None = None,
        another: Callable[[EngineLost], tuple[Engine, DeviceTurns | None]] | None = None,
        start: AdapterRef | None = None,
    ) -> None:
        """`context` is in tokens; `clock` is that of `WorkItem.deadline_at`; with `device_turns` trainer and engine take turns.

        `another` gives an engine in place of a lost one, and how it takes turns; or it raises. `start` is the adapter that fits
        start from, and that serves a task without a fit, unless an earlier pass left an adapter for the task.
        """
        self._settings = settings
        self.codec = codec
        self._context = context
        self._trainer = trainer
        self._engine = engine
        self._clock = clock
        self._device_turns = device_turns
        self._another = another
        self._start = start

    def work(self, item: WorkItem, report: Report = lambda _: None) -> Iterator[TaskOutcome | SharedFit]:
        """Give the outcome of every task of the item as soon as it is known.

        If the item has several tasks, an outcome without scores comes first, and the final one replaces it.
        """
        deadline = Deadline(item.deadline_at, self._clock)
        jobs = [
            Job(replace(work, start=work.start or self._start), f"{item.id}t{place}") for place, work in enumerate(item.tasks)
        ]
        if item.kind == "shared":
            yield self._fit_shared(item, jobs, deadline, report)
            return
        self._prepare(jobs, item.wave, deadline, report)
        self._fit(jobs, item, deadline, report)
        self._infer(jobs, item, deadline, report)
        if self._settings.infer.score:
            if len(jobs) > 1:
                for job in jobs:
                    if job.found:  # as long as the scores are missing, the pass counts as cut
                        yield job.outcome(item.wave, "failed" if job.status == "failed" else "cut", final=False)
            for job in self._score(jobs, deadline, report):
                yield job.outcome(item.wave, job.status)
        else:
            for job in jobs:
                yield job.outcome(item.wave, job.status)

    # -- before the fit

    def _prepare(self, jobs: Sequence[Job], wave: int, deadline: Deadline, report: Report) -> None:
        for job in jobs:
            if deadline.expired():
                job.cut = True
                continue
            report(f"preparing {job.task.id}")
            began = self._clock()
            job.prompts = self._prompts(job, wave)
            # a task without prompts needs no adapter
            job.sequences = self._sequences(job, wave, deadline) if job.prompts and job.work.plan.steps else ()
            job.steps = self._steps(job.work.plan.steps, len(job.sequences))
            job.seconds["prepare"] = self._clock() - began

    def _prompts(self, job: Job, wave: int) -> list[ViewPrompt]:
        """The prompt of every query under every view of the plan. One that does not fit the context is left out with an event."""
        views = inference_views(self._settings, job.task, wave)[: job.work.plan.views]
        limit = job.work.max_tokens
        context = self._context if limit is None else min(self._context, limit + self.codec.longest_answer)
        prompts: list[ViewPrompt] = []
        dropped = []
        for query in range(len(job.task.test)):
            lost = 0
            for view in views:  # views differ in tokens: a turned grid has another number of rows
                try:
                    prompt = self.codec.prompt(view.apply(job.task.query(query)), 0, context)
                except TooLong:
                    lost += 1
                    continue
                dropped.append(prompt.dropped)
                prompts.append(ViewPrompt(query, view, prompt.ids))
            if lost:
                where = f"test {query} under {lost} of {len(views)} views"
                job.events.append(("too long", f"{where}: the prompt does not fit {context} tokens even without demonstrations"))
        self._tell_dropped(job, dropped, len(job.task.train), context, "prompts")
        return prompts

    def _tell_dropped(self, job: Job, dropped: Sequence[int], most: int, context: int, what: str) -> None:
        """Add one event for all prompts or sequences that lost demonstrations because of the context."""
        if shortened := [number for number in dropped if number]:
            where = f"{len(shortened)} of {len(dropped)} {what}"
            detail = f"{where} lack up to {max(shortened)} of {most} demonstrations, which do not fit {context} tokens"
            job.events.append(("dropped demonstrations", detail))

    def _sequences(self, job: Job, wave: int, deadline: Deadline) -> tuple[TokenSequence, ...]:
        """As many training sequences as the fit can use and there is time to make. Every wave gets others."""
        data, train = self._settings.data, self._settings.train
        context = min(self._context, job.work.max_tokens or self._context)
        most = data.max_sequences
        if train.epochs is None:
            most = min(most, job.work.plan.steps * train.batch_sequences)
        examples = ttt_examples(job.task, data, self._settings.seed, most, max(wave, 0) * most)
        sequences, dropped = [], []
        lost = 0
        for example in examples:
            if deadline.expired():
                break
            try:
                sequences.append(self.codec.sequence(example, context, data.loss_on_demonstrations, data.loss_on_answer))
            except TooLong:
                lost += 1
                continue
            dropped.append(len(example.train) - self.codec.shown(example, context))
        self._tell_dropped(
            job, dropped, max((len(example.train) for example in examples), default=0), context, "training sequences"
        )
        if lost:
            detail = f"{lost} of {len(examples)} training sequences: do not fit {context} tokens even without demonstrations"
            job.events.append(("too long", detail))
        usable = tuple(sequence for sequence in sequences if sequence.weights.any())
        if not usable and not deadline.expired():
            job.events.append(("no training sequences", f"none of {len(examples)} examples can be trained on"))
        return usable

    def _steps(self, planned: int, sequences: int) -> int:
        train = self._settings.train
        if train.epochs is None or not sequences:
            return planned
        return min(planned, math.ceil(train.epochs * sequences / train.batch_sequences))

    # -- the fit

    def _fit(self, jobs: Sequence[Job], item: WorkItem, deadline: Deadline, report: Report) -> None:
        fitting = {job.adapter: job for job in jobs if job.steps and job.sequences}
        if not fitting:
            return
        keep = item.keep[0] if item.keep is not None else INFER_SHARE * max(deadline.remaining(), 0.0)
        report("fitting " + names(list(fitting.values())))
        requests = [
            FitJob(adapter, job.sequences, job.steps, _seed(self._settings, job.task, "fit", item.wave), job.work.start)
            for adapter, job in fitting.items()
        ]
        if self._device_turns is not None:
            self._device_turns.to_fits()
        for fit in self._trainer.fit(requests, deadline.earlier(keep)):
            job = fitting[fit.adapter_id]
            job.fit = self._own(fit)
            job.seconds["fit"] = fit.seconds
            job.count(trained=fit.tokens)
            if fit.reason == "deadline":
                job.cut = True
            elif fit.status != "complete":
                job.events.append(("fit stopped", f"{fit.reason} after {fit.steps} steps"))
        for job in jobs:
            job.sequences = ()

    def _fit_shared(self, item: WorkItem, jobs: Sequence[Job], deadline: Deadline, report: Report) -> SharedFit:
        """Fit one adapter on the sequences of all tasks, one of each task in turn."""
        report(f"preparing {len(jobs)} tasks")
        preparation = deadline.earlier((1 - PREPARE_SHARE) * max(deadline.remaining(), 0.0))
        piles = [self._sequences(job, item.wave, preparation) for job in jobs if not preparation.expired()]
        events = [(kind, f"{job.task.id}: {detail}") for job in jobs for kind, detail in job.events]
        if len(piles) < len(jobs):
            events.append(("left out", f"the shared fit had no time to prepare {len(jobs) - len(piles)} of {len(jobs)} tasks"))
        dealt = [pile[i] for i in range(max(map(len, piles), default=0)) for pile in piles if i < len(pile)]
        if not dealt:
            return SharedFit(Fit(item.id, "failed", "no training sequences", None, 0, 0, 0.0, math.nan, math.nan), tuple(events))
        steps = self._steps(sum(job.work.plan.steps for job in jobs[: len(piles)]), len(dealt))
        report(f"fitting one adapter on {len(jobs)} tasks")
        job = FitJob(item.id, tuple(dealt), steps, self._settings.seed, self._start)
        if self._device_turns is not None:
            self._device_turns.to_fits()
        (fit,) = self._trainer.fit([job], deadline)
        return SharedFit(self._own(fit), tuple(events))

    def _own(self, fit: Fit) -> Fit:
        """The fit without the user's adapter, which a fit without steps hands on: the run deletes the adapters of its fits."""
        return replace(fit, adapter=None) if self._start is not None and fit.adapter == self._start else fit

    # -- inference

    def _infer(self, jobs: Sequence[Job], item: WorkItem, deadline: Deadline, report: Report) -> None:
        if self._settings.infer.score:
            keep = item.keep[1] if item.keep is not None else SCORE_SHARE * max(deadline.remaining(), 0.0)
            deadline = deadline.earlier(keep)
        asked = {f"{job.adapter}q{place}": (job, prompt) for job in jobs for place, prompt in enumerate(job.prompts)}
        if not asked:
            return
        report("inferring " + names(jobs))
        began = self._clock()
        if self._device_turns is not None:
            self._device_turns.to_inference()
        for result in self._decode(asked, item.wave, deadline):
            job, prompt = asked[result.request]
            job.note(result, "inference")
            job.count(prompt=result.prompt_tokens, new=result.new_tokens)
            candidates = list(self._candidates(job, prompt, result))
            job.found.setdefault(prompt.query, []).extend(candidates)
            if candidates or result.status != "cut":  # a view without an answer by the deadline was not asked
                job.views[prompt.query] = job.views.get(prompt.query, 0) + 1
        spread(jobs, "infer", self._clock() - began)

    def _decode(self, asked: dict[str, tuple[Job, ViewPrompt]], wave: int, deadline: Deadline) -> Iterator[Result]:
        infer = self._settings.infer

        def room(prompt: ViewPrompt) -> int:
            return min(self.codec.longest_answer, self._context - len(prompt.ids))

        if infer.mode == "search":
            searches = [
                SearchRequest(id_, prompt.ids, job.serving, infer.min_prob, room(prompt)) for id_, (job, prompt) in asked.items()
            ]
            return self._ask(lambda engine, left: engine.search(left, deadline), searches)
        greedy = infer.mode == "greedy"
        samples = [
            SampleRequest(
                id_,
                prompt.ids,
                job.serving,
                n=1 if greedy else job.work.plan.samples,
                temperature=0.0 if greedy else infer.temperature,
                max_new_tokens=room(prompt),
                seed=_seed(self._settings, job.task, "sample", wave, prompt.query, prompt.view.key),
            )
            for id_, (job, prompt) in asked.items()
        ]
        return self._ask(lambda engine, left: engine.sample(left, deadline), samples)

    def _ask(self, call: Callable[[Engine, Sequence[R]], Iterator[Result]], requests: Sequence[R]) -> Iterator[Result]:
        """The results of all requests. If the engine is lost, another one answers the requests that are left."""
        left = {request.id: request for request in requests}
        while True:
            try:
                for result in call(self._engine, list(left.values())):
                    del left[result.request]
                    yield result
                return
            except EngineLost as lost:
                if self._another is None:
                    raise
                self._engine, self._device_turns = self._another(lost)

    def _candidates(self, job: Job, prompt: ViewPrompt, result: Result) -> Iterator[Candidate]:
        adapter = job.serving.id if job.serving is not None else ""
        for completion in result.completions:
            grid = self.codec.decode_answer(completion.ids) if completion.finished else None
            if grid is not None:
                origin = self._settings.infer.mode
                yield Candidate(prompt.view.undo(grid), prompt.view.key, completion.logprob, origin, adapter)

    # -- scoring

    def _score(self, jobs: Sequence[Job], deadline: Deadline, report: Report) -> Iterator[Job]:
        """Score the candidates with the most votes under every view. Gives each job as soon as it has its last score."""
        requests: list[ScoreRequest] = []
        asked: dict[str, tuple[Job, ViewPrompt, list[Grid]]] = {}
        waiting: dict[str, int] = {}
        for job in jobs:
            tops = {query: job.top(query, self._settings.infer.score_candidates) for query in range(len(job.task.test))}
            for place, prompt in enumerate(job.prompts):
                if not (grids := tops[prompt.query]):
                    continue
                id_ = f"{job.adapter}s{place}"
                asked[id_] = (job, prompt, grids)
                completions = tuple(self.codec.encode_answer(prompt.view.apply_grid(grid)) for grid in grids)
                requests.append(ScoreRequest(id_, prompt.ids, job.serving, completions))
                waiting[job.adapter] = waiting.get(job.adapter, 0) + 1
        yield from (job for job in jobs if job.adapter not in waiting)
        if not requests:
            return
        report("scoring " + names(jobs))
        began = self._clock()
        done: list[Job] = []
        for result in self._ask(lambda engine, left: engine.score(left, deadline), requests):
            job, prompt, grids = asked[result.request]
            job.note(result, "scoring")
            job.count(scored=sum(len(completion.ids) for completion in result.completions))
            # a view counts only if it scored all candidates: sums over different views cannot be compared
            if result.status == "complete":
                adapter = job.serving.id if job.serving is not None else ""
                job.scores.setdefault(prompt.query, []).extend(
                    Score(grid, prompt.view.key, -completion.logprob, len(completion.ids), adapter)
                    for grid, completion in zip(grids, result.completions, strict=True)
                )
            waiting[job.adapter] -= 1
            if not waiting[job.adapter]:
                done.append(job)
                job.seconds["score"] = (self._clock() - began) / len(done)
                yield job
        for job in jobs:
            if waiting.get(job.adapter):
                job.cut = True
                yield job


def inference_views(settings: Settings, task: Task, wave: int) -> list[View]:
    """The distinct views of a wave: every transform once, then every transform again with another draw, and so on.

    The first draw of each transform keeps colours and order if `infer.views.keep_identity`.
    """
    infer: InferSettings = settings.infer
    rng = generator(settings.seed, task.id, "views", str(wave))
    views: dict[str, View] = {}
    for draw in range(infer.permutations):
        for transform in infer.views.transforms:
            if draw == 0 and infer.views.keep_identity:
                view = View(transform, IDENTITY_COLOURS)
            else:
                order = tuple(int(i) for i in rng.permutation(len(task.train))) if infer.views.shuffle else ()
                view = View(transform, random_colours(rng, infer.views.colours), order)
            views.setdefault(view.key, view)
    return list(views.values())


def _seed(settings: Settings, task: Task, purpose: str, *names: int | str) -> int:
    return int(generator(settings.seed, task.id, purpose, *map(str, names)).integers(2**31))
