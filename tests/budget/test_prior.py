"""Estimates of machines nobody measured: right in their ratios, marked, and never a dead end."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_cases import CPU, TINY, profile, row, variant

from solver.budget import prior
from solver.budget.prior import PRESETS, estimate, known_device, model_of, stored
from solver.budget.profile import save_profile
from solver.config import preset_names
from solver.errors import InputError

L4 = PRESETS["kaggle-l4x4"][0].machine("kaggle-l4x4", 4)
LARGE = TINY.model_copy(update={"parameters": 4 * 10**9, "layers": 36, "hidden": 2560, "kv_width": 1024, "q_width": 4096})


@pytest.mark.parametrize("name", preset_names("machines"))
def test_every_machine_preset_has_a_profile(name: str) -> None:
    found = stored(name)
    assert found.machine.preset == name
    assert found.variants[0].points("step_seconds")
    assert found.estimate or found.measured_at, "neither measured nor marked as an estimate"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_what_was_not_measured_says_so_and_how_it_came_about(name: str) -> None:
    found = stored(name)
    if not found.measured_at:
        assert "estimate" in found.derivation
        assert "roof" in found.derivation


def test_an_unknown_machine_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="abacus"):
        stored("abacus")


@given(st.floats(1.1, 8.0))
def test_twice_the_peak_halves_the_seconds(factor: float) -> None:
    faster = CPU.model_copy(update={"device": "faster", "peak_flops": 1e11 * factor, "bandwidth": 2e10 * factor})
    before, after = profile().variants[0].rows[0], estimate(profile(), faster, TINY).variants[0].rows[0]
    assert before.step_seconds is not None
    assert after.step_seconds == pytest.approx(before.step_seconds / factor)
    assert before.decode_rate is not None
    assert after.decode_rate == pytest.approx(before.decode_rate * factor)


def test_the_same_machine_and_model_change_nothing_but_the_mark() -> None:
    there = estimate(profile(), CPU, TINY)
    assert there.estimate
    assert there.measured_at == ""
    assert there.variants[0].rows[0].step_seconds == pytest.approx(profile().variants[0].rows[0].step_seconds)


def test_a_gpu_is_never_faster_than_its_launches() -> None:
    found = estimate(profile(variant(row(16, step_seconds=1e-6))), L4, TINY).variants[0].rows[0]
    assert found.step_seconds == pytest.approx(3 * prior.KERNELS * TINY.layers * prior.LAUNCH)


def test_a_gpu_is_not_thought_better_used_than_assumed() -> None:
    found = estimate(profile(variant(row(8192, step_seconds=1e-3))), L4, LARGE)
    assert found.variants[0].rows[0].mfu == pytest.approx(prior.UTILISATION)


def test_a_larger_model_costs_more_and_takes_longer_to_load() -> None:
    small, large = profile().variants[0], estimate(profile(), CPU, LARGE).variants[0]
    assert large.load_seconds > small.load_seconds
    for field in ("step_seconds", "prefill_seconds", "score_seconds"):
        assert all(a > b for (_, a), (_, b) in zip(large.points(field), small.points(field), strict=True))
    assert all(a < b for (_, a), (_, b) in zip(large.points("decode_rate"), small.points("decode_rate"), strict=True))


def test_no_estimate_without_knowing_the_machine() -> None:
    with pytest.raises(InputError, match="somewhere"):
        estimate(profile(), CPU.model_copy(update={"device": "somewhere", "peak_flops": None}), TINY)


def test_an_estimate_of_an_estimate_tells_both() -> None:
    twice = estimate(estimate(profile(), L4, TINY), L4, LARGE)
    assert twice.derivation.count("estimate for") == 2


@pytest.mark.parametrize(
    ("name", "found"), [("Tesla T4", "Tesla T4"), ("NVIDIA L4", "NVIDIA L4"), ("NVIDIA H200", "NVIDIA H200")]
)
def test_gpus_are_known_by_the_names_their_drivers_give(name: str, found: str) -> None:
    device = known_device(name)
    assert device is not None
    assert device.device == found


@pytest.mark.parametrize("name", ["NVIDIA L40S", "NVIDIA A100-SXM4-80GB", ""])
def test_other_gpus_are_not_taken_for_them(name: str) -> None:
    assert known_device(name) is None


def test_the_shape_of_a_model_is_read_without_torch(tiny_base: Path) -> None:
    from solver.config import ModelSettings
    from solver.model.load import load_base

    model = model_of(tiny_base)
    assert model.parameters == load_base(tiny_base, ModelSettings(), weights=False).parameters
    assert (model.layers, model.hidden, model.q_width, model.kv_width, model.vocabulary) == (2, 32, 32, 32, 16)


def test_a_configuration_without_a_shape_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tiny_base / "config.json").read_text())
    del config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="num_hidden_layers"):
        model_of(tmp_path)


def test_damaged_weights_are_named(tmp_path: Path, tiny_base: Path) -> None:
    for file in tiny_base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        model_of(tmp_path)


def test_a_profile_of_this_model_is_used_as_it_is(tmp_path: Path) -> None:
    save_profile(tmp_path / "mine.json", profile())
    assert prior.prior(tmp_path / "mine.json", None, TINY) == (profile(), [])


def test_a_profile_of_another_model_is_an_estimate_with_a_warning(tmp_path: Path) -> None:
    save_profile(tmp_path / "mine.json", profile())
    found, warnings = prior.prior(tmp_path / "mine.json", None, LARGE)
    assert found.estimate
    assert found.model == LARGE
    assert len(warnings) == 1
    assert "not tiny" in warnings[0] or "model tiny" in warnings[0]


def test_a_corrupt_profile_is_named_and_set_aside(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{")
    found, warnings = prior.prior(tmp_path / "mine.json", "h200", TINY)
    assert found.machine.device == "NVIDIA H200"
    assert len(warnings) == 1
    assert "mine.json" in warnings[0]
    assert (tmp_path / "mine.json").read_text() == "{"


def test_without_a_profile_the_stored_one_of_the_machine() -> None:
    found, warnings = prior.prior(None, "kaggle-t4x2", TINY)
    assert (found.machine.devices, found.model, warnings) == (2, TINY, [])
