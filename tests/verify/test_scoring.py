from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from digit_samples import digit_samples

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.load import load_base
from solver.types import NEVER, Deadline
from solver.verify.samples import SampleSet
from solver.verify.scoring import read_values, score_samples, write_values
from solver.verify.training import VerifierOptions, train_verifier
from solver.verify.verifier import Verifier, load_verifier

FP32 = ModelSettings(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def samples(generator: str) -> SampleSet:
    return digit_samples(generator, 3, 30)


@pytest.fixture(scope="module")
def verifier(tiny_base: Path, samples: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> Verifier:
    folder = tmp_path_factory.mktemp("scoring") / "verifier"
    train_verifier(load_base(tiny_base, FP32), samples, VerifierOptions(), folder, NEVER)
    return load_verifier(folder, FP32)


def test_values_are_kept_in_a_file_and_read_back(verifier: Verifier, samples: SampleSet, tmp_path: Path) -> None:
    scored = list(score_samples(verifier, samples, NEVER))
    path = tmp_path / "values.jsonl"
    write_values(path, samples.generator, verifier.identity, scored)
    again = read_values(path, samples)
    assert [one.samples for one in again] == [one.samples for one in scored] == list(samples.by_problem().values())
    for first, second in zip(scored, again, strict=True):
        for values, others in zip(first.values, second.values, strict=True):
            np.testing.assert_allclose(values, others, atol=1e-6)
        by_ids: dict[tuple[int, ...], np.ndarray] = {}
        for sample, values in zip(first.samples, first.values, strict=True):  # equal solutions have equal values
            np.testing.assert_array_equal(by_ids.setdefault(sample.ids, values), values)
    judged = scored[0].judged("last")
    assert [one.score for one in judged] == [float(values[-1]) for values in scored[0].values]


def test_scoring_stops_at_the_deadline(verifier: Verifier, samples: SampleSet) -> None:
    looks = iter(range(10**6))
    assert 0 < len(list(score_samples(verifier, samples, Deadline(12.0, lambda: float(next(looks)))))) < 3


def test_values_that_do_not_fit_the_samples_are_refused(verifier: Verifier, samples: SampleSet, tmp_path: Path) -> None:
    path = tmp_path / "values.jsonl"
    write_values(path, samples.generator, verifier.identity, list(score_samples(verifier, samples, NEVER)))
    with pytest.raises(InputError, match="line 2: the values of problem 'p0' are not those of its samples"):
        read_values(path, digit_samples(samples.generator, 3, 29))
    with pytest.raises(InputError, match="line 3: not the values of a problem that the samples have"):
        read_values(path, SampleSet(samples.generator, samples.problems[:1], samples.samples[:30]))
    with pytest.raises(InputError, match="values of samples of another model"):
        read_values(path, digit_samples("other", 3, 30))
    path.write_text("{}\n")
    with pytest.raises(InputError, match="line 1: not a file of values"):
        read_values(path, samples)
