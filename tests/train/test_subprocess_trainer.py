"""A trainer in a process of its own: the same fits, and what becomes of a process that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_trainers import sequences
from trainer_makers import GREED

from solver.config import ModelSettings, TrainSettings
from solver.model.load import load_base
from solver.train import subprocess_trainer
from solver.train.lora import LoraTrainer
from solver.train.subprocess_trainer import ProcessLost, StartError, SubprocessTrainer, TrainerSpec
from solver.types import NEVER, Deadline, Fit, FitJob

SETTINGS = TrainSettings(rank=4, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=128)
FP32 = ModelSettings(dtype="float32", device="cpu")
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}


def spec(maker: str, folder: Path, scratch: Path) -> TrainerSpec:
    return TrainerSpec(f"trainer_makers:{maker}", folder, FP32, SETTINGS, scratch)


def start(maker: str, folder: Path, scratch: Path, patience: float = 60) -> SubprocessTrainer:
    return SubprocessTrainer(spec(maker, folder, scratch), ENVIRONMENT, patience)


@pytest.fixture(scope="module")
def process(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SubprocessTrainer]:
    made = start("lora", tiny_base, tmp_path_factory.mktemp("apart"))
    yield made
    made.close()
    assert not made.alive


def job(name: str, seed: int = 0, steps: int = 3) -> FitJob:
    return FitJob(name, sequences(seed), steps, seed)


def told(fit: Fit) -> tuple[object, ...]:
    return fit.adapter_id, fit.status, fit.reason, fit.steps, fit.tokens, fit.final_loss


def test_fits_are_the_same_as_in_this_process(process: SubprocessTrainer, tiny_base: Path, tmp_path: Path) -> None:
    jobs = [job("a", 1), job("b", 2)]
    mine = list(LoraTrainer(load_base(tiny_base, FP32), SETTINGS, tmp_path).fit(jobs, NEVER))
    theirs = list(process.fit(jobs, NEVER))
    assert [fit.steps for fit in mine] == [3, 3]
    for left, right in zip(map(told, mine), map(told, theirs), strict=True):
        assert left[:5] == right[:5]
        assert left[5] == pytest.approx(right[5], rel=1e-4)
    for left_fit, right_fit in zip(mine, theirs, strict=True):
        assert left_fit.adapter is not None
        assert right_fit.adapter is not None
        assert {f.name for f in right_fit.adapter.path.iterdir()} == {f.name for f in left_fit.adapter.path.iterdir()}


def test_deadlines_and_refusals_cross_over(process: SubprocessTrainer) -> None:
    (cut,) = process.fit([job("late")], Deadline.after(0))
    assert (cut.status, cut.reason, cut.steps) == ("cut", "deadline", 0)
    (empty,) = process.fit([FitJob("empty", (), 1)], NEVER)
    assert (empty.status, empty.reason) == ("failed", "no training sequences")


def test_batch_sizes_change_without_a_new_process(process: SubprocessTrainer) -> None:
    before = list(process.fit([job("wide", 4)], NEVER))
    process.settings = SETTINGS.model_copy(update={"batch_tokens": 64})
    try:
        after = list(process.fit([job("narrow", 4)], NEVER))
    finally:
        process.settings = SETTINGS
    assert after[0].final_loss == pytest.approx(before[0].final_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("maker", "patience", "words"),
    [
        ("refusing", 60, "it needs what is not there"),
        ("breaking", 60, "ImportError: no such library"),
        ("exiting", 60, "it ended with exit code 7"),
        ("hanging", 0.5, "it did not answer in time"),
        ("nowhere", 60, "AttributeError"),
    ],
)
def test_a_process_that_cannot_start_says_why_in_one_line(
    maker: str, patience: float, words: str, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(StartError) as caught:
        start(maker, tiny_base, tmp_path, patience)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("crash", "exit code 9"), ("raise", "RuntimeError: kernel image is wrong"), ("hang", "did not answer in time")],
)
def test_what_a_lost_process_had_fitted_is_kept(
    name: str, words: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subprocess_trainer, "GRACE", 0.5)
    made = start("fatal", tiny_base, tmp_path)
    kept: list[Fit] = []
    fits = made.fit([job("first"), job(name), job("never")], Deadline.after(20 if name != "hang" else 2))
    kept.append(next(fits))
    with pytest.raises(ProcessLost) as caught:
        next(fits)
    assert [fit.adapter_id for fit in kept] == ["first"]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "out of memory: micro-batches are smaller now" in [record.getMessage() for record in caplog.records]
    assert made.alive == (name == "raise")
    made.close()
    assert not made.alive


def test_answers_nobody_waits_for_are_passed_over(tiny_base: Path, tmp_path: Path) -> None:
    made = start("fatal", tiny_base, tmp_path)
    next(iter(made.fit([job("a"), job("b")], NEVER)))
    assert [fit.adapter_id for fit in made.fit([job("c")], NEVER)] == ["c"]
    made.close()


def test_resting_between_fits(tiny_base: Path, tmp_path: Path) -> None:
    made = start("resting", tiny_base, tmp_path)
    list(made.fit([job("a")], NEVER))
    made.rest()
    made.rest()
    (fit,) = made.fit([job("b")], NEVER)
    assert fit.status == "complete"
    next(iter(made.fit([job("c"), job("d")], NEVER)))  # nobody waits for the second one
    made.rest()
    assert (tmp_path / "notes.txt").read_text().split() == ["fit", "rest", "rest", "fit", "fit", "fit", "rest"]
    made.close()


def test_a_trainer_that_knows_no_rest_holds_nothing(process: SubprocessTrainer) -> None:
    process.rest()
    assert [fit.status for fit in process.fit([job("after")], NEVER)] == ["complete"]


def test_what_the_process_has_held_is_told_with_its_answers(process: SubprocessTrainer, tiny_base: Path, tmp_path: Path) -> None:
    made = start("greedy", tiny_base, tmp_path)
    bare = made.peak_memory
    assert 1e6 < bare < process.peak_memory  # one without torch, and not what its parent held as it was started
    list(made.fit([job("a")], NEVER))
    assert made.peak_memory - bare > 0.9 * GREED
    made.close()


@pytest.mark.parametrize(
    ("maker", "words"), [("stuck", "MemoryError: no room on the host"), ("asleep", "did not answer in time")]
)
def test_a_process_that_gives_no_memory_back_is_ended(
    maker: str, words: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess_trainer, "REST_SECONDS", 1.0)
    made = start(maker, tiny_base, tmp_path)
    with pytest.raises(ProcessLost, match=words):
        made.rest()
    assert not made.alive
    with pytest.raises(ProcessLost):
        made.rest()
