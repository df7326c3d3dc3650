"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a randomly initialised two-layer grid model (fp32): fast, real, and untrained."""
    import torch

    from solver.model.build import Shape, new_model, save_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(new_model(Shape(hidden=32, layers=2, heads=2, ffn=64)), folder, torch.float32)
    return folder
