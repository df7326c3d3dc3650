"""Which layers LoRA adapts: those that are linear, whatever a model calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from text_models import FAMILIES, random_model, write_folder

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.adapters import apply_adapter
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape, attach, check_layers, linear_layers, save_neutral, target_names
from solver.train.lora import LoraTrainer
from solver.train.peft import PeftTrainer
from solver.types import NEVER, FitJob, TokenSequence

FP32 = ModelSettings(dtype="float32", device="cpu")
SETTINGS = TrainSettings(rank=4, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=128)
CHANGES = {
    "intermediate_size": 128,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}  # NF4 takes blocks of 64
NAMES = {
    "phi3": ("down_proj", "gate_up_proj", "o_proj", "qkv_proj"),
    "glm4": ("down_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"),
}


def base_of(tmp_path: Path, family: str, quantization: str = "none") -> Base:
    write_folder(tmp_path / family, family, tied=False, **CHANGES)
    return load_base(tmp_path / family, FP32.model_copy(update={"quantization": quantization}))


def job(name: str, steps: int) -> FitJob:
    rng = np.random.default_rng(0)
    weights = np.ones(24, np.float32)
    weights[0] = 0
    return FitJob(name, tuple(TokenSequence(rng.integers(0, 250, 24).astype(np.int32), weights) for _ in range(2)), steps)


@pytest.mark.parametrize("trainer", [LoraTrainer, PeftTrainer])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", NAMES)
def test_fused_projections_are_adapted_whole_and_served(
    family: str, quantization: str, trainer: type[LoraTrainer | PeftTrainer], tmp_path: Path
) -> None:
    base = base_of(tmp_path, family, quantization)
    assert check_layers(base) == ""
    (fit,) = trainer(base, SETTINGS, tmp_path / "adapters").fit([job("a", 6)], NEVER)
    assert fit.final_loss < fit.first_loss
    assert fit.adapter is not None
    weights = load_file(fit.adapter.path / "adapter_model.safetensors")
    changed = {name.split(".")[-3] for name, value in weights.items() if ".lora_B." in name and value.norm() > 0}
    assert changed == set(NAMES[family])
    assert len(weights) == 2 * 2 * len(NAMES[family])  # A and B in each of two layers
    ids = torch.arange(3, 33)[None]
    with torch.no_grad():
        served, plain = apply_adapter(base, fit.adapter)(ids).logits, base.model(ids).logits
    assert not torch.allclose(served, plain, atol=1e-2)
    if quantization == "none":
        from peft import PeftModel

        theirs: Any = PeftModel.from_pretrained(load_base(base.path, FP32).model, fit.adapter.path)
        with torch.no_grad():
            torch.testing.assert_close(theirs(ids).logits, served, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", [*FAMILIES, *NAMES])
def test_the_layers_are_those_that_peft_calls_all_linear(family: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = base_of(tmp_path, family)
    layers = attach(base, LoraShape(4, 8.0), 1).layers
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")  # type: ignore[arg-type]
    wrapped: Any = get_peft_model(random_model(family, False, 64, **CHANGES), config).get_base_model()
    assert layers.keys() == {name for name, module in wrapped.named_modules() if hasattr(module, "lora_A")}
    assert not any("lm_head" in name or "embed" in name for name in layers)


@pytest.mark.parametrize("trainer", [LoraTrainer, PeftTrainer])
def test_what_is_left_as_it_is_is_told(
    trainer: type[LoraTrainer | PeftTrainer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = base_of(tmp_path, "qwen3_moe")
    (fit,) = trainer(base, SETTINGS, tmp_path).fit([job("a", 2)], NEVER)
    assert fit.adapter is not None
    apply_adapter(base, fit.adapter)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("trainer: LoRA adapts 8 linear layers and leaves ")
    assert "model.layers.0.mlp" in line


@pytest.mark.parametrize("trainer", [LoraTrainer, PeftTrainer])
def test_a_model_without_linear_layers_is_refused_in_one_line(trainer: type[LoraTrainer | PeftTrainer], tmp_path: Path) -> None:
    base = base_of(tmp_path, "gpt2")
    assert linear_layers(base.model) == {}
    with pytest.raises(InputError) as caught:
        trainer(base, SETTINGS, tmp_path)
    assert str(caught.value).endswith("LoRA adapts nn.Linear layers and the model has none (Conv1D): set train.trainer=full")
    assert "\n" not in str(caught.value)


def test_a_neutral_adapter_covers_every_layer_of_a_description(tmp_path: Path) -> None:
    base = base_of(tmp_path, "phi3")
    described = load_base(base.path, FP32, weights=False)
    assert target_names(described.model) == NAMES["phi3"]
    save_neutral(described, tmp_path / "neutral")
    weights = load_file(tmp_path / "neutral" / "adapter_model.safetensors")
    assert {name.split(".lora_")[0] for name in weights} == {f"base_model.model.{name}" for name in linear_layers(base.model)}
    assert all(float(value.abs().sum()) == 0 for value in weights.values())
