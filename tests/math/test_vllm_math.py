"""The calculator inside vLLM's batches, against the HF engine. Needs an environment with vllm (make vllm-cpu)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_settings import CPU

from solver.config import InferSettings
from solver.infer.base import EngineState
from solver.infer.vllm import shim
from solver.math.annotations import chosen, is_well_formed
from solver.math.drawing import DrawOptions, draw
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem
from solver.types import NEVER

pytestmark = [
    pytest.mark.skipif(not shim.distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def generator(generator_folder: Path) -> Generator:
    return load_generator(generator_folder, CPU)


@pytest.fixture(scope="module")
def state() -> Iterator[EngineState]:
    state = EngineState()
    yield state
    if state.vllm.running is not None:
        state.vllm.running.close()


@pytest.mark.parametrize("options", [DrawOptions(8, 1.0, 80, seed=3), DrawOptions(1, 0.0, 80)], ids=["samples", "greedy"])
def test_both_engines_write_the_same_solutions_with_the_calculator(
    generator: Generator, state: EngineState, problems: tuple[MathProblem, ...], options: DrawOptions
) -> None:
    tokenizer = generator.tokenizer
    theirs, ours = (
        list(draw(generator.engine(InferSettings(engine=name), state), tokenizer, problems, options, NEVER))
        for name in ("vllm", "hf")
    )
    written = 0
    for one, other in zip(theirs, ours, strict=True):
        assert (one.problem, one.redrawn, one.ill_formed) == (other.problem, other.redrawn, other.ill_formed)
        assert [(s.text, s.ids, s.correct) for s in one.samples] == [(s.text, s.ids, s.correct) for s in other.samples]
        assert [s.logprob for s in one.samples] == pytest.approx([s.logprob for s in other.samples], abs=1e-3)
        for sample in one.samples:
            written += int((~chosen(sample.ids, tokenizer)).sum())
            assert sample.answer is None or is_well_formed(sample.text)
    assert written > 20
    assert sum(s.correct for one in theirs for s in one.samples) >= 4
