"""Training, saving, loading and scoring with real tiny models."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from digit_samples import CODEC, digit_samples

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.build import Shape, new_model, save_model
from solver.model.folder import folder_identity
from solver.model.load import Base, load_base
from solver.model.value_head import with_mean_row
from solver.types import NEVER, Deadline
from solver.verify.samples import SampleSet
from solver.verify.training import VerifierOptions, language_sequence, train_verifier, value_sequence
from solver.verify.verifier import FILE, Verifier, load_verifier

FP32 = ModelSettings(dtype="float32", device="cpu")
QUICK = VerifierOptions(lr=1e-2, batch_sequences=8, balance=False)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, FP32)


@pytest.fixture(scope="module")
def trained(base: Base, generator: str, tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    folder = tmp_path_factory.mktemp("trained") / "verifier"
    lines: list[str] = []
    fit = train_verifier(base, digit_samples(generator, 100, 8), QUICK, folder, NEVER, report=lines.append)
    assert (fit.status, fit.steps) == ("complete", 200)
    found = re.fullmatch(r"verifier: 200 of 200 steps, loss \S+; of values (\S+), of a constant value (\S+)", lines[-1])
    assert found is not None
    assert float(found[1]) < 0.2 < float(found[2]) <= 0.25
    return load_verifier(folder, FP32, generator)


def accuracy(verifier: Verifier, samples: SampleSet) -> float:
    """How often the last value is on the right side of 1/2."""
    right = 0
    for problem in samples.problems:
        mine = samples.by_problem()[problem.id]
        values = verifier.values(np.array(problem.prompt), [np.array(one.ids) for one in mine], NEVER)
        assert values is not None
        right += sum((value[-1] > 0.5) == one.correct for value, one in zip(values, mine, strict=True))
    return right / len(samples.samples)


def test_a_verifier_learns_to_tell_right_from_wrong(trained: Verifier, generator: str) -> None:
    assert accuracy(trained, digit_samples(generator, 30, 8, seed=1)) > 0.95


def test_values_are_those_of_the_models_own_modules(trained: Verifier, generator: str) -> None:
    """Batches of solutions of different lengths, read in one piece or in several, give what each gives alone."""
    prompt = np.array(digit_samples(generator, 1, 1).problems[0].prompt)
    rng = np.random.default_rng(0)
    solutions = [rng.integers(0, 10, n).astype(np.int32) for n in (3, 40, 1, 17)]
    found = trained.values(prompt, solutions, NEVER)
    assert found is not None
    trained._reader._budget = 200  # fewer rows than solutions at once
    again = trained.values(prompt, solutions, NEVER)
    assert again is not None
    for solution, values, others in zip(solutions, found, again, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, solution]).astype(np.int64))[None]
        with torch.no_grad():
            logits = trained.base.model(input_ids=ids).logits[0, len(prompt) :, trained.facts.token]
        expected = trained.facts.gain * logits + trained.facts.bias
        torch.testing.assert_close(torch.from_numpy(values), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.from_numpy(others), expected, atol=1e-4, rtol=1e-4)


def test_a_deadline_that_has_passed_gives_no_values(trained: Verifier) -> None:
    assert trained.values(np.array([1]), [np.array([2])], Deadline(0.0, lambda: 1.0)) is None


@pytest.mark.parametrize(
    "options",
    [
        VerifierOptions(loss="bce", level="solution", joint=False),
        VerifierOptions(trainer="lora", rank=4),
        VerifierOptions(residual_dropout=0.2),
    ],
    ids=["solution", "lora", "dropout"],
)
def test_every_kind_is_saved_and_loaded(
    base: Base, tiny_base: Path, generator: str, tmp_path: Path, options: VerifierOptions
) -> None:
    samples = digit_samples(generator, 4, 8)
    options = replace(options, lr=1e-2, batch_sequences=8)
    before = {name: value.clone() for name, value in base.model.named_parameters()}
    train_verifier(base, samples, options, tmp_path / "verifier", NEVER)
    verifier = load_verifier(tmp_path / "verifier", FP32, generator, tiny_base)
    assert (verifier.facts.loss, verifier.facts.level, verifier.facts.kind) == (options.loss, options.level, options.trainer)
    assert (verifier.facts.gain, verifier.facts.bias) != (1.0, 0.0)
    values = verifier.values(np.array(samples.problems[0].prompt), [np.array(samples.samples[0].ids)], NEVER)
    assert values is not None
    assert np.isfinite(values[0]).all()
    if options.loss == "bce":
        assert ((values[0] > 0) & (values[0] < 1)).all()
    assert all(torch.equal(value, before[name]) for name, value in base.model.named_parameters())


def test_a_fit_that_the_deadline_cuts_leaves_a_verifier(base: Base, generator: str, tmp_path: Path) -> None:
    seconds = iter(range(10**6))
    deadline = Deadline(40.0, lambda: float(next(seconds)))
    fit = train_verifier(base, digit_samples(generator, 50, 8), QUICK, tmp_path / "verifier", deadline)
    assert fit.status == "cut"
    assert 0 < fit.steps < 100
    assert load_verifier(tmp_path / "verifier", FP32, generator).facts.generator == generator


def test_a_verifier_may_be_larger_than_the_generator(generator: str, tmp_path: Path) -> None:
    save_model(new_model(Shape(hidden=64, layers=3, heads=2, ffn=96)), tmp_path / "larger", torch.float32)
    larger = load_base(tmp_path / "larger", FP32)
    train_verifier(larger, digit_samples(generator, 4, 8), QUICK, tmp_path / "verifier", NEVER)
    verifier = load_verifier(tmp_path / "verifier", FP32, generator)
    assert verifier.facts.start == folder_identity(tmp_path / "larger")
    assert verifier.base.model.config.hidden_size == 64


def test_targets_stand_at_the_tokens_of_the_solution_alone(generator: str) -> None:
    samples = digit_samples(generator, 1, 1)
    problem, sample = samples.problems[0], samples.samples[0]
    label = float(sample.correct)
    token, solution = (value_sequence(problem, sample, level) for level in ("token", "solution"))
    assert token.values is not None
    assert solution.values is not None
    assert np.isnan(token.values[:4]).all()
    assert token.values[4:].tolist() == [label] * 3
    assert np.isnan(solution.values[:6]).all()
    assert solution.values[6] == label
    assert not token.weights.any()
    assert language_sequence(problem, sample).weights.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_joint_loss_takes_as_many_sequences_to_write_as_to_judge(
    base: Base, generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solver.verify import training

    jobs = []
    real = training.Loop.fit
    monkeypatch.setattr(training.Loop, "fit", lambda self, given, deadline: jobs.extend(given) or real(self, given, deadline))
    samples = digit_samples(generator, 3, 8)
    train_verifier(base, samples, QUICK, tmp_path / "verifier", NEVER)
    judged = [one for one in jobs[0].sequences if one.values is not None]
    written = [one for one in jobs[0].sequences if one.weights.any()]
    assert len(judged) == len(written) == 24
    assert len(jobs[0].sequences) == 48
    assert jobs[0].steps == 6


def test_balanced_samples_are_as_often_right_as_wrong(
    base: Base, generator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solver.verify import training

    jobs = []
    real = training.Loop.fit
    monkeypatch.setattr(training.Loop, "fit", lambda self, given, deadline: jobs.extend(given) or real(self, given, deadline))
    samples = digit_samples(generator, 5, 6)
    lines: list[str] = []
    options = replace(QUICK, balance=True, joint=False)
    train_verifier(base, samples, options, tmp_path / "verifier", NEVER, report=lines.append)
    labels = [float(one.values[-1]) for one in jobs[0].sequences if one.values is not None]
    both = sum({one.correct for one in mine} == {True, False} for mine in samples.by_problem().values())
    assert (len(labels), sum(labels)) == (6 * both, 3 * both)
    assert lines[0] == f"{6 * both} samples of {both} problems, each with as many right as wrong ones"


@pytest.mark.parametrize(("loss", "spread"), [("mse", 0.2), ("bce", 1.0)])
def test_values_begin_at_the_mean_of_the_labels(
    base: Base, generator: str, tmp_path: Path, loss: Literal["mse", "bce"], spread: float
) -> None:
    """At a rate of almost 0 the values stay a function of the mean logit of all other tokens."""
    samples = digit_samples(generator, 8, 8)
    train_verifier(base, samples, replace(QUICK, loss=loss, lr=1e-12), tmp_path / "verifier", NEVER)
    verifier = load_verifier(tmp_path / "verifier", FP32, generator)
    prepared = with_mean_row(base, CODEC.pad)
    others = [token for token in range(16) if token != CODEC.pad]
    found = []
    for problem in samples.problems:
        solutions = [np.array(one.ids) for one in samples.by_problem()[problem.id]]
        values = verifier.values(np.array(problem.prompt), solutions, NEVER)
        assert values is not None
        for ids, mine in zip(solutions, values, strict=True):
            with torch.no_grad():
                logits = prepared.model(input_ids=torch.tensor([[*problem.prompt, *ids]])).logits[0, len(problem.prompt) :]
            scaled = verifier.facts.gain * logits[:, others].mean(-1) + verifier.facts.bias
            expected = scaled if loss == "mse" else scaled.sigmoid()
            torch.testing.assert_close(torch.from_numpy(mine), expected, atol=1e-4, rtol=1e-4)
            found.append(scaled)
    scaled = torch.cat(found)
    labels = float(np.mean([one.correct for one in samples.samples]))
    assert float(scaled.mean()) == pytest.approx(labels if loss == "mse" else math.log(labels / (1 - labels)), abs=1e-3)
    assert float(scaled.std(unbiased=False)) == pytest.approx(spread, rel=1e-3)


def test_samples_with_the_reserved_token_are_left_out_of_training_and_read_all_the_same(
    base: Base, generator: str, trained: Verifier, tmp_path: Path
) -> None:
    samples = digit_samples(generator, 3, 8)
    spoilt = (replace(samples.samples[0], ids=(CODEC.pad,)), *samples.samples[1:])
    asked = (*samples.problems[:2], replace(samples.problems[2], prompt=(CODEC.pad,)))
    lines: list[str] = []
    changed = replace(samples, samples=spoilt, problems=asked)
    train_verifier(base, changed, QUICK, tmp_path / "verifier", NEVER, report=lines.append)
    assert lines[0] == "9 of 24 samples are left out: they have token 13, which is reserved for the verifier"
    assert load_verifier(tmp_path / "verifier", FP32, generator).facts.training["samples"] == 15
    values = trained.values(np.array([1]), [np.array([CODEC.pad, 3])], NEVER)
    assert values is not None
    assert np.isfinite(values[0]).all()


def refused(message: str, call: object) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_bad_samples_are_refused(base: Base, generator: str, tmp_path: Path) -> None:
    samples = digit_samples(generator, 2, 8)

    def train(changed: SampleSet) -> None:
        train_verifier(base, changed, QUICK, tmp_path / "verifier", NEVER)

    right = tuple(one for one in samples.samples if one.correct)
    refused("only right samples", lambda: train(replace(samples, samples=right)))
    refused("no samples", lambda: train(replace(samples, samples=())))
    wrong = tuple(replace(one, correct=False) for one in samples.samples[:-1])
    refused("only wrong samples", lambda: train(replace(samples, samples=wrong)))


def test_bad_verifiers_are_refused(trained: Verifier, base: Base, tiny_base: Path, generator: str, tmp_path: Path) -> None:
    refused("not a verifier: verifier.json is missing", lambda: load_verifier(tiny_base, FP32))
    folder = trained.base.path
    refused("a verifier of another generator", lambda: load_verifier(folder, FP32, "0123456789abcdef"))
    refused("needs 9001 tokens", lambda: trained.values(np.array([1]), [np.zeros(9000, np.int32)], NEVER))
    train_verifier(base, digit_samples(generator, 2, 8), replace(QUICK, trainer="lora", rank=2), tmp_path / "lora", NEVER)
    refused("a LoRA verifier: give the folder of the model", lambda: load_verifier(tmp_path / "lora", FP32))
    refused("not the model that the verifier", lambda: load_verifier(tmp_path / "lora", FP32, generator, folder))
    facts = json.loads((tmp_path / "lora" / FILE).read_text())
    for change, message in (
        ({"format": "solver-verifier-0"}, "not a verifier of format"),
        ({"gain": "high"}, "token, loss, kind, gain or bias has no valid value"),
        ({"token": 99}, "token 99 is outside the vocabulary of 16"),
        ({"colour": 1}, "field 'colour' is missing or unknown"),
    ):
        (tmp_path / "lora" / FILE).write_text(json.dumps(facts | change))
        refused(message, lambda: load_verifier(tmp_path / "lora", FP32, generator, tiny_base))
