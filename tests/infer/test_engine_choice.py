"""Which engine "auto" chooses and why, and what happens if that one does not start. A stand-in takes the place of vllm."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from solver.config import InferSettings, ModelSettings, TrainSettings
from solver.errors import InputError
from solver.infer import registry
from solver.infer.base import EngineState
from solver.infer.hf import HFEngine
from solver.infer.registry import EngineStartError, auto_engine, choose_engine, make_engine
from solver.infer.vllm import engine as vllm_engine
from solver.model.load import Base, load_base
from solver.train.registry import fits_lora

AUTO, VLLM = InferSettings(), InferSettings(engine="vllm")


@pytest.fixture
def base(plain_base: Path) -> Base:
    return load_base(plain_base, ModelSettings(dtype="float32", device="cpu"))


class StandIn(HFEngine):
    """An engine whose start raises `error` unless that is None."""

    error: Exception | None = None
    started: list[int]

    def __init__(self, base: Base, settings: InferSettings, *_: object) -> None:
        super().__init__(base, settings)
        self.started = []

    def start(self, rank: int) -> None:
        self.started.append(rank)
        if self.error is not None:
            raise self.error


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Make "auto" choose vllm, as on a GPU, and put the stand-in in its place."""
    monkeypatch.setitem(registry.ENGINES, "vllm", StandIn)
    monkeypatch.setattr(registry, "auto_engine", lambda *_: ("vllm", "why not"))
    monkeypatch.setattr(StandIn, "error", None)
    return StandIn


@pytest.mark.parametrize(
    ("device", "lora", "problem", "engine", "why"),
    [
        ("cpu", True, "", "hf", "faster than vllm on processors"),
        ("cpu", False, "not installed", "hf", "processors"),
        ("cuda", False, "", "hf", "hold all weights"),
        ("cuda", True, "vLLM is not installed: do this", "hf", "vLLM is not installed: do this"),
        ("cuda", True, "", "vllm", "adapters of many tasks in one batch"),
    ],
)
def test_which_engine_auto_chooses_and_why(device: str, lora: bool, problem: str, engine: str, why: str) -> None:
    found = auto_engine(device, lora, lambda: problem)
    assert found[0] == engine
    assert why in found[1]


@pytest.mark.parametrize(("device", "lora"), [("cpu", True), ("cuda", False)])
def test_vllm_is_not_imported_where_it_would_not_be_taken(device: str, lora: bool) -> None:
    auto_engine(device, lora, lambda: pytest.fail("asked"))


def test_an_engine_that_the_settings_name_is_chosen(base: Base) -> None:
    for engine in ("hf", "vllm"):
        assert choose_engine(base, InferSettings(engine=engine)) == (engine, "set by infer.engine")


def test_auto_chooses_vllm_for_trainers_of_lora_only(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "unservable", lambda _: "")
    large = replace(base, device=torch.device("cuda"))
    for trainer, engine in (("auto", "vllm"), ("full", "hf"), ("lora", "vllm"), ("peft", "vllm")):
        assert choose_engine(large, AUTO, fits_lora(TrainSettings(trainer=trainer)))[0] == engine


def test_the_engine_is_started_with_the_rank(base: Base, chosen: type[StandIn]) -> None:
    engine = make_engine(base, AUTO, 8, lora=True)
    assert isinstance(engine, chosen)
    assert engine.started == [8]
    assert make_engine(base, AUTO, 0, lora=True).started == []  # type: ignore[attr-defined]


def test_hf_takes_the_place_of_a_chosen_engine_that_does_not_start(
    base: Base, chosen: type[StandIn], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chosen, "error", RuntimeError("no room for keys\nand more lines"))
    state = EngineState()
    with caplog.at_level(logging.WARNING):
        engine = make_engine(base, AUTO, 8, lora=True, state=state)
    assert type(engine) is HFEngine
    (record,) = caplog.records
    assert record.getMessage().startswith("engine: hf: vllm did not start: ")
    assert "no room for keys" in record.getMessage()
    assert "\n" not in record.getMessage()
    monkeypatch.setattr(chosen, "error", None)
    assert type(make_engine(base, AUTO, 8, lora=True, state=state)) is HFEngine  # it is not tried again
    assert choose_engine(base, AUTO, True, state)[1].startswith("vllm did not start: ")


def test_an_engine_that_the_settings_name_and_that_does_not_start_is_an_error(
    base: Base, chosen: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "error", RuntimeError("no room for keys"))
    with pytest.raises(EngineStartError, match=r"infer\.engine = vllm does not start: .*no room for keys"):
        make_engine(base, VLLM, 8, lora=True)
    monkeypatch.setattr(chosen, "error", InputError("infer.engine = vllm: no such architecture"))
    with pytest.raises(InputError, match="no such architecture"):  # trying again is pointless
        make_engine(base, VLLM, 8, lora=True)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libcuda.so.1: cannot open shared object file"),
        RuntimeError("operator torchvision::nms does not exist"),
        AttributeError("module 'torch' has no attribute 'float8_e8m0fnu'"),
        TypeError("unexpected keyword argument"),
        ValueError("too many values to unpack"),
        AssertionError("no platform"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_vllm_that_cannot_be_imported_is_the_reason_for_hf(
    error: Exception, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation whose packages do not fit together."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(f"raise {type(error).__name__}({str(error)!r})\n", encoding="utf-8")
    (tmp_path / "vllm-0.0.dist-info").mkdir()
    (tmp_path / "vllm-0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.0\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    large = replace(base, device=torch.device("cuda"), dtype=torch.bfloat16)
    assert choose_engine(large, AUTO, lora=True) == ("hf", f"vLLM is installed, but cannot be imported: {error}")


def test_fp32_on_cuda_is_refused_before_vllm_is_imported(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "distribution", lambda: "vllm 0.0")
    monkeypatch.setattr(vllm_engine, "architectures", lambda: pytest.fail("asked"))
    large = replace(base, device=torch.device("cuda"))
    engine, why = choose_engine(large, AUTO, lora=True)
    assert engine == "hf"
    assert "set model.dtype to " in why
    with pytest.raises(InputError, match=r"infer\.engine = vllm: .*set model\.dtype to "):
        make_engine(large, VLLM, 8, lora=True)
    monkeypatch.setattr(vllm_engine, "architectures", lambda: set(base.model.config.architectures))
    for served in (base, *(replace(large, dtype=dtype) for dtype in (torch.float16, torch.bfloat16))):
        assert vllm_engine.unservable(served) == ""
