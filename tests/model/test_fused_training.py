"""The fused training pass gives the states and gradients of the transformers modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from counted_calls import record_calls
from text_models import random_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model import fused_training
from solver.model.build import Shape, new_model, save_model
from solver.model.fused_training import FusedTrainingPass, decoder_states
from solver.model.load import load_base
from solver.model.lora import LoraShape, attach
from solver.model.residual_dropout import add_residual_dropout


def model_of(heads: int, key_heads: int, tie: bool) -> Qwen3ForCausalLM:
    torch.manual_seed(heads)
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=16,
        tie_word_embeddings=tie,
        max_position_embeddings=512,
    )
    model = Qwen3ForCausalLM(config).float()
    for name, value in model.named_parameters():  # norms whose weights are not 1 can be told from none
        if "norm" in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return model


def gradients(states: object, ids: torch.Tensor, keep: torch.Tensor, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    hidden = states(ids, keep)  # type: ignore[operator]
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    return [hidden.detach(), *torch.autograd.grad((hidden * direction).sum(), parameters, materialize_grads=True)]


def assert_same(model: torch.nn.Module, ids: torch.Tensor, keep: torch.Tensor, parameters: list[torch.Tensor]) -> None:
    assert FusedTrainingPass.fits(model)
    expected = gradients(decoder_states(model), ids, keep, parameters)
    for wanted, found in zip(expected, gradients(FusedTrainingPass(model), ids, keep, parameters), strict=True):
        assert found.shape == wanted.shape
        assert torch.linalg.vector_norm(found - wanted) <= 2e-5 * torch.linalg.vector_norm(wanted) + 5e-5


@pytest.mark.parametrize(("heads", "key_heads", "tie"), [(3, 3, True), (4, 2, False)])
@pytest.mark.parametrize(("rows", "tokens", "first"), [(1, 1, 0), (2, 64, 5), (3, 150, 70), (1, 200, 199)])
def test_states_and_all_gradients_are_those_of_the_ordinary_pass(heads, key_heads, tie, rows, tokens, first) -> None:
    model = model_of(heads, key_heads, tie)
    ids = torch.randint(0, 16, (rows, tokens), generator=torch.Generator().manual_seed(2))
    keep = torch.arange(rows * tokens)
    keep = keep[keep % tokens >= first]
    assert_same(model, ids, keep, list(model.parameters()))


def test_probabilities_that_are_not_kept_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, keep = model_of(3, 3, True), torch.arange(100)[None] % 16, torch.arange(10, 90)
    computed = record_calls(monkeypatch, fused_training, "_probabilities")
    assert_same(model, ids, keep, list(model.parameters()))
    once = len(computed)
    monkeypatch.setattr(fused_training, "_KEPT_PROBABILITIES", 0)
    assert_same(model, ids, keep, list(model.parameters()))
    assert len(computed) - once == 2 * once > 0  # in the forward pass and again in the backward pass


@pytest.mark.parametrize("rank", [2, 32], ids=["low-rank gradients", "dense gradients"])
def test_adapters_get_the_same_gradients(rank: int, tmp_path: Path) -> None:
    save_model(new_model(Shape(64, 2, 2, 128)), tmp_path, torch.float32)
    base = load_base(tmp_path, ModelSettings(dtype="float32"))
    stack = attach(base, LoraShape(rank, alpha=8.0), 1)
    stack.reset(0, 3)
    for layer in stack.layers.values():
        torch.nn.init.normal_(layer.b, std=0.1)
        assert fused_training._thin(layer) == (rank == 2)
    ids = torch.randint(0, 16, (2, 80), generator=torch.Generator().manual_seed(2))
    assert_same(stack.model, ids, torch.arange(20, 160, 3), list(stack.parameters()))


def test_models_it_cannot_stand_in_for_are_left_alone(tmp_path: Path) -> None:
    model = model_of(3, 3, True)
    assert not FusedTrainingPass.fits(model.bfloat16())
    save_model(new_model(Shape(64, 2, 2, 128)), tmp_path, torch.float32)
    base = load_base(tmp_path, ModelSettings(dtype="float32"))
    assert not FusedTrainingPass.fits(attach(base, LoraShape(4, 4.0, dropout=0.1), 1).model)
    assert not FusedTrainingPass.fits(attach(base, LoraShape(4, 4.0), 2).model)


@pytest.mark.parametrize("fused", [True, False])
def test_residual_dropout_is_drawn_anew_for_every_pass_and_only_in_training(fused: bool) -> None:
    model = new_model(Shape(hidden=32, layers=1, heads=2, ffn=64), seed=3).eval()
    ids, keep = torch.randint(0, 10, (2, 8), generator=torch.Generator().manual_seed(0)), torch.arange(16)
    plain = FusedTrainingPass(model) if fused else decoder_states(model)
    with torch.no_grad():
        expected = plain(ids, keep)
        if fused:
            states = FusedTrainingPass(model, 0.5)
        else:
            add_residual_dropout(model, 0.5)
            states = decoder_states(model)
        torch.testing.assert_close(states(ids, keep), expected)
        model.train()
        drawn = [states(ids, keep) for _ in range(2)]
        assert not torch.equal(drawn[0], drawn[1])
        model.eval()
        torch.testing.assert_close(states(ids, keep), expected)


def test_residual_dropout_of_both_passes_draws_the_same() -> None:
    models = [new_model(Shape(hidden=32, layers=2, heads=2, ffn=64), seed=3).train() for _ in range(2)]
    add_residual_dropout(models[1], 0.3)
    ids, keep = torch.randint(0, 10, (1, 8), generator=torch.Generator().manual_seed(0)), torch.arange(8)
    found = []
    for states in (FusedTrainingPass(models[0], 0.3), decoder_states(models[1])):
        torch.manual_seed(5)
        with torch.no_grad():
            found.append(states(ids, keep))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_residual_dropout_of_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="no blocks that residual dropout is known for"):
        add_residual_dropout(random_model("gpt2", True, 32), 0.1)
