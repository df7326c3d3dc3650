"""How the vLLM engine gives the device up, sleeping or closing its core, by what each has cost. The core is a stand-in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.vllm import engine as engine_module
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.handover_costs import HandoverCosts
from solver.infer.vllm.shim import BLOCK, CoreOptions, ServedLora
from solver.infer.vllm.state import VllmState
from solver.model.device import DevicePlan, ModelShape
from solver.model.load import Base, load_base
from solver.types import Deadline, SampleRequest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class StandIn:
    """A core that advances the clock by the costs of what it does, and serves no requests."""

    clock: Clock
    costs: dict[str, float]
    log: list[str]
    failing: set[str]
    state: VllmState  # shared by the engines of a test

    def __init__(self, options: CoreOptions) -> None:
        self.options, self.asleep, self.sleeps = options, False, options.sleeps
        self._do("start")

    def try_adapter(self, lora: ServedLora) -> None:
        pass

    def sleep(self) -> None:
        self.asleep = True
        self._do("sleep")

    def wake(self) -> None:
        self._do("wake")
        self.asleep = False

    def close(self) -> None:
        self._do("close")

    def _do(self, what: str) -> None:
        self.log.append(what)
        self.clock.now += self.costs[what]
        if what in self.failing:
            raise RuntimeError("out of reach\nentirely")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    clock = Clock()
    state = VllmState(handover_costs=HandoverCosts(clock))
    kind = type("Kind", (StandIn,), {"clock": clock, "log": [], "failing": set(), "state": state})
    kind.costs = {"start": 20.0, "sleep": 2.0, "wake": 1.0, "close": 0.5}
    monkeypatch.setattr(engine_module, "Core", kind)
    monkeypatch.setattr(engine_module, "unservable", lambda base: "")
    monkeypatch.setattr(VllmEngine, "_warm_up", lambda _: None)
    return kind


@pytest.fixture
def base(plain_base: Path) -> Base:
    return load_base(plain_base, ModelSettings(dtype="float32", device="cpu"))


def small_plan(cache: int) -> DevicePlan:
    return DevicePlan(10**9, 10**9, 0, 10**9, 0, 0, 2, 0, cache, False, "as loaded")


def turns(engine: VllmEngine, count: int) -> None:
    for _ in range(count):
        engine.start(8)
        engine.rest()
        engine.rest()  # the second one changes nothing


def test_a_core_sleeps_as_long_as_that_is_cheaper_than_closing_it(stand_in: type[StandIn], base: Base) -> None:
    engine = VllmEngine(base, InferSettings(), sleeps=True, state=stand_in.state)
    turns(engine, 3)
    assert stand_in.log == ["start", "sleep", "wake", "sleep", "wake", "sleep"]
    assert engine.handover_seconds == 3.0
    stand_in.costs["wake"] = 30.0  # the host begins to swap
    turns(engine, 3)
    assert stand_in.log[6:] == ["wake", "close", "start", "close", "start", "close"]
    assert engine.handover_seconds == 20.5


def test_a_core_that_cannot_sleep_is_closed(stand_in: type[StandIn], base: Base) -> None:
    engine = VllmEngine(base, InferSettings(), state=stand_in.state)
    turns(engine, 2)
    assert stand_in.log == ["start", "close", "start", "close"]
    engine.rest()
    assert stand_in.log[-2:] == ["start", "close"]


@pytest.mark.parametrize("what", ["sleep", "wake"])
def test_a_core_that_fails_to_sleep_or_wake_is_replaced(
    what: str, stand_in: type[StandIn], base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.failing.add(what)
    engine = VllmEngine(base, InferSettings(), sleeps=True, state=stand_in.state)
    turns(engine, 2)
    after = {"sleep": ["close", "start", "close"], "wake": ["wake", "close", "start", "close"]}[what]
    assert stand_in.log == ["start", "sleep", *after]
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "out of reach" in warning
    assert "\n" not in warning


def test_a_core_is_not_woken_if_the_deadline_leaves_too_little_time(stand_in: type[StandIn], base: Base) -> None:
    engine = VllmEngine(base, InferSettings(), sleeps=True, state=stand_in.state)
    turns(engine, 2)
    request = SampleRequest("a", np.array([1, 2], np.int32), None, 1, 0.0, 4)
    late = Deadline(stand_in.clock.now + 0.5, stand_in.clock)
    before = list(stand_in.log)
    assert [result.status for result in engine.sample([request], late)] == ["cut"]
    assert stand_in.log == before


def test_an_engine_that_rests_closes_the_core_of_another_engine(stand_in: type[StandIn], base: Base) -> None:
    first, second = (VllmEngine(base, InferSettings(), sleeps=True, state=stand_in.state) for _ in range(2))
    first.start(8)
    second.rest()
    assert stand_in.log == ["start", "close"]


def test_a_core_is_closed_before_another_engine_of_the_process_starts_its_own(stand_in: type[StandIn], base: Base) -> None:
    first, second = (VllmEngine(base, InferSettings(), sleeps=True, state=stand_in.state) for _ in range(2))
    first.start(8)
    second.start(8)
    assert stand_in.log == ["start", "close", "start"]
    assert stand_in.state.running is second
    first.close()  # it has no core any more
    assert stand_in.state.running is second
    second.close()
    assert stand_in.state.running is None
    assert stand_in.log == ["start", "close", "start", "close"]


def test_the_plan_limits_the_cache_and_the_number_of_adapters(stand_in: type[StandIn], base: Base) -> None:
    shape = ModelShape.of(base.model.config)
    wide = VllmEngine(base, InferSettings(batch_tokens=10**6))
    assert wide._options(8).cache_bytes == shape.kv_bytes(10**6 + 2 * BLOCK, 4)
    bounded = VllmEngine(base, InferSettings(batch_tokens=10**6), small_plan(shape.kv_bytes(20_000, 4)))
    assert bounded._options(8).cache_bytes == shape.kv_bytes(20_000, 4)
    assert (wide._options(8).slots, bounded._options(8).slots) == (8, 2)
    least = VllmEngine(base, InferSettings(batch_tokens=10**6), small_plan(1))
    assert least._options(8).cache_bytes == shape.kv_bytes(base.context + 1 + 2 * BLOCK, 4)


def test_the_plan_says_whether_a_quantised_base_is_unpacked(
    stand_in: type[StandIn], plain_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ModelSettings(dtype="float32", device="cpu", quantization="nf4")
    base = load_base(plain_base, settings, weights=False, cache=tmp_path)
    unpacked = VllmEngine(base, InferSettings())._options(8)
    assert (unpacked.quantized, unpacked.model.parent) == (False, tmp_path)
    small = replace(small_plan(1), served="quantised")
    monkeypatch.setattr(engine_module, "reads_nf4", lambda: True)
    options = VllmEngine(base, InferSettings(), small)._options(8)
    assert (options.quantized, options.model) == (True, plain_base)
    monkeypatch.setattr(engine_module, "reads_nf4", lambda: False)
    with pytest.raises(InputError, match="pip install vllm-bnb-plugin"):
        VllmEngine(base, InferSettings(), small)
