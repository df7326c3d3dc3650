"""What the doctor concludes from facts that this machine does not have."""

from pathlib import Path

import pytest
import torch

from solver.report.doctor import Diagnosis, Finding, cpu_flags, device_refusal, diagnose, driver_refusal

CUDA_13_BUILD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def test_a_p100_is_refused_with_the_reason() -> None:
    reason = device_refusal((6, 0), CUDA_13_BUILD)
    assert "6.0" in reason
    assert "7.5" in reason


def test_devices_with_code_are_accepted() -> None:
    for capability in [(7, 5), (8, 0), (8, 9), (9, 0), (10, 3), (12, 0)]:
        assert device_refusal(capability, CUDA_13_BUILD) == "", capability


def test_newer_devices_compile_the_portable_code() -> None:
    assert device_refusal((13, 0), CUDA_13_BUILD) == ""
    assert device_refusal((13, 0), ["sm_120"]) != ""


def test_minor_versions_run_older_code_of_their_major_version_alone() -> None:
    assert device_refusal((8, 9), ["sm_86"]) == ""
    assert device_refusal((8, 0), ["sm_86"]) != ""
    assert device_refusal((9, 0), ["sm_86"]) != ""


def test_suffixed_architectures_are_read() -> None:
    assert device_refusal((9, 0), ["sm_90a"]) == ""


def test_old_drivers_are_refused() -> None:
    assert "580" in driver_refusal("550.54.15", "13.0")
    assert driver_refusal("580.82", "13.0") == ""
    assert driver_refusal("550.54.15", "12.8") == ""
    assert driver_refusal("", "13.0") == ""
    assert driver_refusal("550.54.15", None) == ""


def test_a_driver_too_old_is_one_line_of_the_table(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.model.load.EMBEDDED", tiny_base)
    monkeypatch.setattr("solver.report.doctor._nvidia_driver", lambda: "550.54.15")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # the driver tells, but torch cannot use them

    def too_old(_: int) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "get_device_properties", too_old)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    findings = diagnose().to_json()["findings"]
    assert findings["cuda driver"]["state"] == "refused"
    assert findings["device"]["value"] == "cpu"
    assert "cuda:0" not in findings


def test_cpu_flags_of_x86_and_arm() -> None:
    assert cpu_flags("model name\t: x\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16\n") == ["avx2", "avx512_bf16", "amx_bf16"]
    assert cpu_flags("Features\t: fp asimd bf16\n") == ["asimd", "bf16"]
    assert cpu_flags("model name : avx2\n") == []


def test_ready_asks_for_what_every_run_needs_alone() -> None:
    good = (Finding("python", "3.11"), Finding("torch", "2"), Finding("base model", "embedded"))
    assert Diagnosis((*good, Finding("vllm", "not installed", "missing"), Finding("cuda:0", "P100", "refused"))).ready
    assert not Diagnosis((*good[:2], Finding("base model", "none", "missing"))).ready


def test_the_embedded_model_is_loaded_and_choices_are_explained(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.model.load.EMBEDDED", tiny_base)
    diagnosis = diagnose()
    findings = diagnosis.to_json()["findings"]
    assert diagnosis.ready
    assert findings["base model"]["state"] == "ok"
    assert findings["trainer"]["value"] == "lora"
    assert findings["engine"]["value"] == "hf"
    assert findings["trainer"]["why"]
    assert findings["engine"]["why"]
    assert findings["engine (large)"]["value"] == "hf"
    assert "LoRA" in findings["engine (large)"]["why"]


def test_a_broken_embedded_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.model.load.EMBEDDED", tmp_path)
    diagnosis = diagnose()
    finding = diagnosis.to_json()["findings"]["base model"]
    assert not diagnosis.ready
    assert finding["state"] == "refused"
    assert str(tmp_path) in finding["why"]
