"""Fixtures shared by all tests."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# a machine that is busy is no failure of what is tested
hypothesis_settings.register_profile("solver", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("solver")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have most slow tests: a file runs in one process, so a long one at the end would run alone."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialised two-layer model of the package's own kind (fp32): fast, real, and untrained."""
    import torch

    from solver.model.build import Shape, new_model, save_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(new_model(Shape(hidden=32, layers=2, heads=2, ffn=64)), folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def plain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same size as an ordinary Qwen3 over the grid vocabulary, which vLLM and unsloth know, too."""
    from plain_qwen3 import write_plain_qwen3

    return write_plain_qwen3(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="session")
def served_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary Qwen3 over the grid vocabulary that vLLM has kernels for, which has learnt what answers look like."""
    from plain_qwen3 import SERVED, write_plain_qwen3

    return write_plain_qwen3(tmp_path_factory.mktemp("served") / "model", SERVED, steps=300)
