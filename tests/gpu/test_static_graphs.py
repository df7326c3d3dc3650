"""Static batches with captured steps, against the decoder with buffers that grow. Not run where there is no CUDA device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from lora_adapters import random_lora

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings
from solver.infer import hf
from solver.infer.base import EngineState
from solver.infer.decoding import Decoder
from solver.infer.hf import HFEngine
from solver.infer.static.graphs import Repeater
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.types import NEVER, AdapterRef, Result, SampleRequest, SearchRequest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
TOLERANCE = 1e-3  # of a token's log-probability in fp32: sums in another order


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    """The embedded model in fp32, without the shorter products that round more."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield load_base(None, ModelSettings(device="cuda:0", dtype="float32"))
    torch.set_float32_matmul_precision(before)


def asked(base: Base, adapters: Sequence[AdapterRef | None]) -> list[SampleRequest | SearchRequest]:
    requests: list[SampleRequest | SearchRequest] = []
    for n, task in enumerate(shortest_tasks(load_tasks("arc1:training"), 12)):
        prompt, adapter = base.codec.prompt(task.query(0), 0, base.context).ids, adapters[n % len(adapters)]
        requests.append(SampleRequest(f"greedy {n}", prompt, adapter, 1, 0.0, 80))
        requests.append(SampleRequest(f"sample {n}", prompt, adapter, 3, 1.0, 80, seed=n))
        requests.append(SearchRequest(f"search {n}", prompt, adapter, 0.05, 80))
    return requests


def answers(engine: HFEngine, requests: Sequence[SampleRequest | SearchRequest]) -> dict[str, Result]:
    searches = [request for request in requests if isinstance(request, SearchRequest)]
    samples = [request for request in requests if isinstance(request, SampleRequest)]
    return {result.request: result for result in (*engine.search(searches, NEVER), *engine.sample(samples, NEVER))}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_captured_steps_give_the_completions_of_the_other_decoder(
    base: Base, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [random_lora(base, tmp_path / str(n), n, LoraShape(8, 8.0), 0.02) for n in range(count)] or [None]
    requests = asked(base, adapters)
    captures, others = record_calls(monkeypatch, Repeater, "_capture"), record_calls(monkeypatch, Decoder, "run")
    state = EngineState()
    engine = HFEngine(base, InferSettings(batch_tokens=1 << 18), state)
    given = answers(engine, requests)
    assert state.static_given_up == ""
    assert captures
    assert not others
    captures.clear()
    again = answers(engine, requests)
    assert not captures  # all steps were captured before
    monkeypatch.setattr(hf, "STATIC_DEVICES", ())
    wanted = answers(HFEngine(base, InferSettings(batch_tokens=1 << 18)), requests)
    differing = 0
    for key, result in wanted.items():
        assert (given[key].status, again[key].status) == (result.status, "complete")
        mine = {tuple(c.ids): c for c in given[key].completions}
        assert mine.keys() == {tuple(c.ids) for c in again[key].completions}
        theirs = {tuple(c.ids): c for c in result.completions}
        differing += len(mine.keys() ^ theirs.keys())  # where two tokens, or a token and a threshold, are as good as equal
        for ids in mine.keys() & theirs.keys():
            np.testing.assert_allclose(mine[ids].logprobs, theirs[ids].logprobs, atol=TOLERANCE)
    assert differing <= 0.05 * sum(len(result.completions) for result in wanted.values())
