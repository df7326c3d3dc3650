"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# a machine that is busy is no failure of what is tested
hypothesis_settings.register_profile("solver", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("solver")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialised two-layer grid model (fp32): fast, real, and untrained."""
    import torch

    from solver.model.build import Shape, new_model, save_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(new_model(Shape(hidden=32, layers=2, heads=2, ffn=64)), folder, torch.float32)
    return folder
