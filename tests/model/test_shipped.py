"""Names of the shipped models, and which one a run gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from solver.config import ModelSettings
from solver.infer.registry import auto_engine
from solver.infer.vllm.engine import unservable
from solver.model.folder import SHIPPED
from solver.model.load import load_base
from solver.model.shipped import model_named, name_of, shipped_model
from solver.train.unsloth import refusal


def test_names_mean_folders() -> None:
    assert model_named("embedded") is None
    assert model_named("embedded-mid") == SHIPPED["embedded-mid"]
    assert model_named("some/folder") == Path("some/folder")
    assert [name_of(folder) for folder in SHIPPED.values()] == list(SHIPPED)
    assert name_of(Path("some/folder")) == "folder"


@pytest.mark.parametrize("on_gpu", [True, False])
def test_one_ships_for_every_device(on_gpu: bool) -> None:
    assert shipped_model(on_gpu) in SHIPPED.values()


def test_vllm_and_unsloth_say_what_they_serve_instead(tiny_base: Path) -> None:
    base = load_base(tiny_base, ModelSettings(), weights=False)
    assert unservable(base) == (
        "vLLM does not know cell positions: it serves models of Hugging Face by path; hf serves the embedded ones"
    )
    assert auto_engine("cuda", True, lambda: unservable(base)) == ("hf", unservable(base))
    assert "models of Hugging Face by path" in refusal(torch.device("cuda"), base.model.config.model_type)
