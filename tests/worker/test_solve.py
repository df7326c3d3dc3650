"""What a worker does with an item: sequences, views, requests, candidates, scores, and the time it keeps for each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_parts import EchoEngine, StepTrainer
from run_helpers import grid, make_task

from solver.arc.grid import grid_key
from solver.arc.task import Pair, Task
from solver.arc.view import IDENTITY_COLOURS, View
from solver.codec import LONGEST_ANSWER, grid_codec
from solver.config import Settings, load_settings
from solver.infer.base import EngineLost
from solver.messages import SharedFit
from solver.types import (
    Deadline,
    KnownGrid,
    Result,
    SampleRequest,
    ScoreRequest,
    SearchRequest,
    TaskOutcome,
    TaskPlan,
    TaskWork,
    WorkItem,
)
from solver.worker.solve import INFER_SHARE, SCORE_SHARE, Solver, inference_views

CODEC = grid_codec()


class Bench:
    def __init__(self, scratch: Path, *overrides: str, context: int = 8192) -> None:
        self.settings: Settings = load_settings(overrides=["train.steps=3", *overrides])
        self.now, self.tick = 0.0, 0.0
        self.trainer, self.engine = StepTrainer(scratch), EchoEngine(CODEC)
        self.solver = Solver(self.settings, CODEC, context, self.trainer, self.engine, clock=self._clock)

    def outcomes(self, *works: TaskWork, wave: int = 0, kind: str = "solve") -> list[TaskOutcome]:
        item = WorkItem("r1i1", wave, works, 1000.0, kind)  # type: ignore[arg-type]
        return list(self.solver.work(item))  # type: ignore[arg-type]

    def _clock(self) -> float:
        self.now += self.tick
        return self.now

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [request for request in self.engine.requests if isinstance(request, kind)]


def work(id_: str = "a", plan: TaskPlan | None = None, tests: int = 1, **more: object) -> TaskWork:
    task = make_task(id_, tests=tests).without_answers()
    return TaskWork(task, plan or TaskPlan(3, 8, 1), **more)  # type: ignore[arg-type]


def test_candidates_come_back_as_the_task_shows_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "infer.permutations=2")
    (outcome,) = bench.outcomes(work(plan=TaskPlan(3, 16, 1), tests=2))
    assert outcome.status == "complete"
    for index, query in enumerate(outcome.queries):
        expected = grid_key(make_task("a", tests=2).test[index].input)
        assert len(query.candidates) == len(query.scores) == query.views == 16
        assert {grid_key(c.grid) for c in query.candidates} == {expected}
        assert {grid_key(s.grid) for s in query.scores} == {expected}
        assert {c.adapter for c in query.candidates} == {"r1i1t0"}
        assert len({c.view for c in query.candidates}) == 16
        size = make_task("a", tests=2).test[index].input.size
        assert all(s.nll == s.tokens >= size for s in query.scores)
    assert outcome.tokens["trained"] > 0
    assert {"prepare", "fit", "infer", "score"} <= set(outcome.seconds)


def test_every_score_request_holds_the_same_candidates_behind_one_prompt(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "infer.score_candidates=2")
    earlier = tuple(KnownGrid(grid(i), votes, -float(i)) for i, votes in ((1, 1), (2, 2), (3, 1)))
    bench.outcomes(work(known=(earlier,)), wave=1)
    scores = bench.of(ScoreRequest)
    assert len(scores) == 8
    votes = {grid_key(make_task("a").test[0].input), grid_key(grid(2))}  # 8 new votes, 2 old ones
    for request, view in zip(scores, inference_views(bench.settings, make_task("a"), 1), strict=True):
        decoded = [CODEC.decode_answer(ids) for ids in request.completions]
        assert {grid_key(view.undo(one)) for one in decoded if one is not None} == votes


@pytest.mark.parametrize(("mode", "kind"), [("greedy", SampleRequest), ("sample", SampleRequest), ("search", SearchRequest)])
def test_modes(tmp_path: Path, mode: str, kind: type) -> None:
    bench = Bench(tmp_path, f"infer.mode={mode}", "infer.temperature=0.7", "infer.score=false")
    (outcome,) = bench.outcomes(work(plan=TaskPlan(3, 4, 5)))
    requests = bench.of(kind)
    assert len(requests) == len(bench.engine.requests) == 4
    assert {c.origin for c in outcome.queries[0].candidates} == {mode}
    if kind is SampleRequest:
        assert {(r.n, r.temperature) for r in requests} == {(1, 0.0) if mode == "greedy" else (5, 0.7)}
    assert len({getattr(r, "seed", i) for i, r in enumerate(requests)}) == 4
    assert all(request.adapter.id == "r1i1t0" for request in requests)


def test_a_plan_without_steps_uses_the_adapter_it_is_given_or_the_base(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (outcome,) = bench.outcomes(work(plan=TaskPlan(0, 2, 1)))
    assert outcome.fit is None
    assert {c.adapter for c in outcome.queries[0].candidates} == {""}
    assert not bench.trainer.jobs


def test_a_refit_starts_from_the_adapter_and_sees_other_examples(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = bench.outcomes(work())
    assert first.fit is not None
    second = WorkItem("r1i2", 1, (work(start=first.fit.adapter),), 1000.0)
    list(bench.solver.work(second))
    one, two = bench.trainer.jobs
    assert two.start == first.fit.adapter
    assert one.seed != two.seed
    seen = {sequence.ids.tobytes() for sequence in one.sequences}
    assert not seen & {sequence.ids.tobytes() for sequence in two.sequences}


def test_steps_and_epochs_decide_how_many_sequences_are_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "a", "train.batch_sequences=2")
    bench.outcomes(work())
    assert (len(bench.trainer.jobs[0].sequences), bench.trainer.jobs[0].steps) == (6, 3)
    bench = Bench(tmp_path / "b", "train.batch_sequences=4", "train.epochs=2", "data.max_sequences=10")
    bench.outcomes(work(plan=TaskPlan(99, 8, 1)))
    assert (len(bench.trainer.jobs[0].sequences), bench.trainer.jobs[0].steps) == (10, 5)


def test_a_query_longer_than_the_context_is_told_and_left_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path, context=935)  # an answer may take 930
    (outcome,) = bench.outcomes(work())
    assert outcome.status == "failed"
    assert [kind for kind, _ in outcome.events] == ["too long"]
    assert outcome.events[0][1].startswith("test 0 under 8 of 8 views")
    assert not bench.trainer.jobs


def test_only_the_views_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    # 10 cells in a row take 10 tokens and 9 separators fewer than a column of 10
    wide = Pair(np.zeros((1, 10), dtype=np.uint8), np.zeros((1, 1), dtype=np.uint8))
    task = Task("wide", (wide, wide), (Pair(wide.input, None), Pair(np.zeros((1, 1), dtype=np.uint8), None)))
    bench = Bench(tmp_path, context=LONGEST_ANSWER + 13)
    (outcome,) = bench.outcomes(TaskWork(task, TaskPlan(3, 8, 1)))
    assert [query.views for query in outcome.queries] == [4, 8]
    assert {View.from_key(c.view).transform for c in outcome.queries[0].candidates} == {
        "identity",
        "rot180",
        "flip_lr",
        "flip_ud",
    }
    (told,) = [detail for kind, detail in outcome.events if kind == "too long"]
    assert told.startswith("test 0 under 4 of 8 views")


def test_demonstrations_that_do_not_fit_are_told_of_prompts_and_of_training_sequences(tmp_path: Path) -> None:
    bench = Bench(tmp_path, context=970)
    (outcome,) = bench.outcomes(work())
    assert outcome.status == "complete"
    (told,) = [detail for kind, detail in outcome.events if kind == "dropped demonstrations"]
    assert told.startswith("8 of 8 prompts")
    assert told.endswith("of 3 demonstrations, which do not fit 970 tokens")
    big = tuple(Pair(grid(i, 12, 12), grid(100 + i, 12, 12)) for i in range(4))
    bench = Bench(tmp_path / "big", context=1100)
    (outcome,) = bench.outcomes(TaskWork(Task("big", big, (Pair(grid(9), None),)), TaskPlan(3, 8, 1)))
    (told,) = [detail for kind, detail in outcome.events if "training sequences" in detail]
    assert told == "12 of 12 training sequences lack up to 1 of 3 demonstrations, which do not fit 1100 tokens"
    assert all(len(sequence) <= 1100 for sequence in bench.trainer.jobs[0].sequences)


def test_a_limit_on_tokens_shows_other_demonstrations_in_each_sequence_and_prompt(tmp_path: Path) -> None:
    pairs = tuple(Pair(grid(2 * i, 5, 5), grid(2 * i + 1, 5, 5)) for i in range(100))
    bench = Bench(tmp_path)
    (outcome,) = bench.outcomes(TaskWork(Task("many", pairs, (Pair(grid(9, 5, 5), None),)), TaskPlan(3, 8, 1), max_tokens=512))
    assert outcome.status == "complete"
    sequences = bench.trainer.jobs[0].sequences
    assert len({sequence.ids.tobytes() for sequence in sequences}) == len(sequences) == 12
    assert all(400 < len(sequence) <= 512 for sequence in sequences)
    prompts = bench.of(SampleRequest)
    assert all(400 < len(request.prompt) <= 512 for request in prompts)
    assert {request.max_new_tokens for request in prompts} == {LONGEST_ANSWER}


def test_training_examples_that_do_not_fit_at_all_are_told(tmp_path: Path) -> None:
    big = tuple(Pair(grid(i, 30, 30), grid(100 + i, 30, 30)) for i in range(2))
    bench = Bench(tmp_path, context=1200)
    (outcome,) = bench.outcomes(TaskWork(Task("big", big, (Pair(grid(9), None),)), TaskPlan(3, 8, 1)))
    events = dict(outcome.events)
    assert events["too long"].startswith("12 of 12 training sequences")
    assert events["no training sequences"] == "none of 12 examples can be trained on"
    assert outcome.status == "complete"


def test_past_the_deadline_everything_is_cut_and_nothing_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.now = 2000.0
    (outcome,) = bench.outcomes(work())
    assert outcome.status == "cut"
    assert outcome.queries[0].candidates == ()
    assert outcome.queries[0].views == 0


def test_the_deadline_is_asked_while_a_task_is_prepared(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tick = 100.0  # seconds between two looks at the clock
    first, second = bench.outcomes(work("a"), work("b"))[-2:]
    assert (first.status, second.status) == ("cut", "cut")
    assert sum(len(job.sequences) for job in bench.trainer.jobs) < 12
    assert not any(kind == "no training sequences" for kind, _ in (*first.events, *second.events))


def test_a_shared_fit_leaves_time_for_the_fit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.tick = 25.0
    (message,) = bench.outcomes(*(work(f"t{i}") for i in range(20)), wave=-1, kind="shared")
    assert isinstance(message, SharedFit)
    assert "of 20 tasks" in dict(message.events)["left out"]
    assert len(bench.trainer.jobs) == 1
    assert bench.now < 1000.0
    late = Bench(tmp_path)
    late.now = 2000.0
    (message,) = late.outcomes(work("a"), wave=-1, kind="shared")
    assert isinstance(message, SharedFit)
    assert message.fit.adapter is None
    assert not late.trainer.jobs


def test_a_view_that_finds_nothing_was_asked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    monkeypatch.setattr(bench.engine, "sample", lambda asked, *_: (Result(one.id, "complete", ()) for one in asked))
    (outcome,) = bench.outcomes(work())
    assert outcome.queries[0].candidates == ()
    assert outcome.queries[0].views == 8


def test_several_tasks_are_one_call_each_and_reported_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    outcomes = bench.outcomes(work("a"), work("b"))
    assert [(o.task_id, o.status) for o in outcomes] == [("a", "cut"), ("b", "cut"), ("a", "complete"), ("b", "complete")]
    assert [outcome.final for outcome in outcomes] == [False, False, True, True]
    assert not outcomes[0].queries[0].scores
    assert outcomes[2].queries[0].scores
    assert [job.adapter_id for job in bench.trainer.jobs] == ["r1i1t0", "r1i1t1"]


def test_a_shared_fit_deals_the_tasks_out_in_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (message,) = bench.outcomes(work("a"), work("b"), wave=-1, kind="shared")
    assert isinstance(message, SharedFit)
    (job,) = bench.trainer.jobs
    assert job.steps == 6
    assert len(job.sequences) == 24


def test_inference_views() -> None:
    settings = load_settings(overrides=["infer.permutations=3"])
    task = make_task("a")
    views = inference_views(settings, task, 0)
    assert len(views) == len({view.key for view in views}) == 24
    assert views[:8] == [View(transform, IDENTITY_COLOURS) for transform in settings.infer.views.transforms]
    assert all(view.colours != IDENTITY_COLOURS for view in views[8:])
    assert views == inference_views(settings, task, 0)
    assert views[8:] != inference_views(settings, task, 1)[8:]
    plain = load_settings(overrides=["infer.permutations=3", "infer.views.colours=keep", "infer.views.shuffle=false"])
    assert len(inference_views(plain, task, 0)) == 8


def test_an_item_says_what_to_keep_for_its_end(tmp_path: Path) -> None:
    after_fit, for_scores = INFER_SHARE * 1000, SCORE_SHARE * 1000  # nobody takes any time here
    for keep, fit_end, answer_end in (((30.0, 10.0), 970.0, 990.0), (None, 1000 - after_fit, 1000 - for_scores)):
        bench = Bench(tmp_path / str(keep))
        seen: list[float] = []
        fit, sample = bench.trainer.fit, bench.engine.sample

        def note_fit(jobs: Any, deadline: Deadline, fit: Any = fit, seen: list[float] = seen) -> Any:
            seen.append(deadline.at)
            return fit(jobs, deadline)

        def note_sample(asked: Any, deadline: Deadline, sample: Any = sample, seen: list[float] = seen) -> Any:
            seen.append(deadline.at)
            return sample(asked, deadline)

        bench.trainer.fit, bench.engine.sample = note_fit, note_sample  # type: ignore[method-assign]
        list(bench.solver.work(WorkItem("r1i1", 0, (work(),), 1000.0, keep=keep)))
        assert seen == pytest.approx([fit_end, answer_end])


def test_the_solver_needs_the_demonstrations_only(tmp_path: Path) -> None:
    """Test outputs change nothing, not even if they are there."""
    bench, blind = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    bench.outcomes(replace(work(), task=make_task("a")))
    blind.outcomes(work())
    for one, other in zip(bench.trainer.jobs[0].sequences, blind.trainer.jobs[0].sequences, strict=True):
        assert np.array_equal(one.ids, other.ids)


class Turns:
    """What a solver says of whose turn it is, among what it asks of trainer and engine."""

    def __init__(self, bench: Bench) -> None:
        self.said: list[tuple[str, int, int]] = []  # with the fits and requests there were by then
        self._bench = bench

    def to_fits(self) -> None:
        self._say("fits")

    def to_inference(self) -> None:
        self._say("inference")

    def _say(self, turn: str) -> None:
        self.said.append((turn, len(self._bench.trainer.jobs), len(self._bench.engine.requests)))


def test_trainer_and_engine_are_told_before_their_turns(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "infer.score=false")
    turns = Turns(bench)
    bench.solver = Solver(bench.settings, CODEC, 8192, bench.trainer, bench.engine, clock=bench._clock, device_turns=turns)  # type: ignore[arg-type]
    bench.outcomes(work("a"), work("b"))
    assert turns.said == [("fits", 0, 0), ("inference", 2, 0)]
    bench.outcomes(work("c", TaskPlan(0, 8, 1)))  # without a fit nobody has to give way
    assert turns.said[2:] == [("inference", 2, 16)]
    shared = bench.outcomes(work("d", TaskPlan(3, 0, 0)), kind="shared")
    assert isinstance(shared[0], SharedFit)
    assert turns.said[3:] == [("fits", 2, 24)]


@pytest.mark.parametrize("phase", ["sample", "score"])
def test_another_engine_answers_what_a_lost_one_left_open(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    call = getattr(bench.engine, phase)

    def lost(requests: Any, deadline: Deadline) -> Any:
        yield from call(requests[:3], deadline)
        raise EngineLost("vLLM broke: no more")

    monkeypatch.setattr(bench.engine, phase, lost)
    with pytest.raises(EngineLost):  # nobody takes its place
        bench.outcomes(work())
    bench.trainer.scratch = tmp_path / "again"
    spare = EchoEngine(CODEC)
    told = []
    bench.solver._another = lambda error: (told.append(str(error)), (spare, None))[1]  # type: ignore[func-returns-value]
    bench.engine.requests.clear()
    (outcome,) = bench.outcomes(work())
    assert told == ["vLLM broke: no more"]
    assert outcome.status == "complete"
    assert len(bench.trainer.jobs) == 2  # the adapter of the first engine is served by the second: no further fit
    assert len({c.view for c in outcome.queries[0].candidates}) == len(outcome.queries[0].scores) == 8
    asked = [[request.id for request in engine.requests] for engine in (bench.engine, spare)]
    assert not set(asked[0]) & set(asked[1])
    assert len(asked[0]) + len(asked[1]) == 16
