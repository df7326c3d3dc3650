"""Offloaded weights stay the same tensors. Tests without a second device use the meta device, which has no storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from solver.config import ModelSettings, TrainSettings
from solver.model import offloaded_weights
from solver.model.load import load_base, share
from solver.model.offloaded_weights import OffloadedWeights, Rests, move_weights
from solver.train.lora import LoraTrainer
from solver.train.weights import FlatWeights
from solver.types import NEVER, FitJob, TokenSequence

FP32 = ModelSettings(dtype="float32", device="cpu")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Moving copies, as it does between devices; gives the devices that were named."""
    devices: list[str] = []

    def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        devices.append(device.type)
        return tensor.as_subclass(torch.Tensor).clone()

    monkeypatch.setattr(offloaded_weights, "_moved", copied)
    return devices


def test_every_tree_over_the_weights_moves_with_them(tiny_base: Path, elsewhere: list[str]) -> None:
    base = load_base(tiny_base, FP32)
    tree = share(base.model)
    ids = torch.arange(10)[None]
    expected = tree(ids).logits
    before = {name: (id(weight), weight.data_ptr()) for name, weight in tree.named_parameters()}
    move_weights(base.model, torch.device("cpu"))
    after = {name: (id(weight), weight.data_ptr()) for name, weight in tree.named_parameters()}
    assert all(after[name][0] == before[name][0] and after[name][1] != before[name][1] for name in before)
    assert len(elsewhere) == len(before) + len(list(tree.buffers()))
    assert torch.equal(tree(ids).logits, expected)


def test_what_is_trained_stays(tiny_base: Path, elsewhere: list[str]) -> None:
    model = load_base(tiny_base, FP32).model
    model.lm_head.weight.requires_grad_(True)
    trained, frozen = model.lm_head.weight, model.get_decoder().layers[0].mlp.up_proj.weight
    before = trained.data_ptr(), frozen.data_ptr()
    move_weights(model, torch.device("cpu"))
    assert trained.data_ptr() == before[0]
    assert frozen.data_ptr() != before[1]


def test_offloaded_weights_are_moved_once_each_way(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base(tiny_base, FP32).model
    moved: list[str] = []
    monkeypatch.setattr(offloaded_weights, "move_weights", lambda _, device: moved.append(device.type))
    weights = OffloadedWeights(model, torch.device("meta"))
    assert isinstance(weights, Rests)
    weights.wake()
    weights.rest()
    weights.rest()
    assert weights.resting
    weights.wake()
    weights.wake()
    assert moved == ["cpu", "meta"]


def test_four_bit_weights_compute_the_same_after_a_rest(tiny_base: Path, elsewhere: list[str]) -> None:
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu", quantization="nf4"))
    ids = torch.arange(10)[None]
    expected = base.model(ids).logits
    states = [
        module.weight.quant_state for module in base.model.modules() if hasattr(getattr(module, "weight", None), "quant_state")
    ]
    assert states
    asked = []
    for state in states:
        moves = state.to
        state.to = lambda device, moves=moves: (asked.append(device.type), moves(device))
    weights = OffloadedWeights(base.model, base.device)
    weights.rest()
    weights.wake()
    assert asked == ["cpu"] * 2 * len(states)
    assert torch.equal(base.model(ids).logits, expected)


def test_a_trainer_that_rested_fits_as_one_that_did_not(tiny_base: Path, tmp_path: Path, elsewhere: list[str]) -> None:
    settings = TrainSettings(rank=4, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=128)
    ids = np.arange(14, dtype=np.int32)
    jobs = [FitJob(name, (TokenSequence(ids, np.ones(14, np.float32)),) * 4, 4, seed=3) for name in ("a", "b")]
    plain, rested = load_base(tiny_base, FP32), load_base(tiny_base, FP32)
    expected = list(LoraTrainer(plain, settings, tmp_path / "plain").fit(jobs, NEVER))
    trainer = LoraTrainer(rested, settings, tmp_path / "rested")
    weights = OffloadedWeights(rested.model, rested.device, trainer)
    for job, before in zip(jobs, expected, strict=True):
        weights.rest()
        weights.wake()
        (after,) = trainer.fit([job], NEVER)
        assert after.final_loss == before.final_loss
        assert after.final_loss < after.first_loss
    assert elsewhere


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_trained_moves_with_its_values(reentrant: bool) -> None:
    parameters = [torch.nn.Parameter(torch.randn(2, 3)), torch.nn.Parameter(torch.randn(4))]
    before = [parameter.detach().clone() for parameter in parameters]
    weights = FlatWeights(parameters, 1, reentrant)
    weights.move(torch.device("cpu"))
    weights.values += 1
    assert all(torch.equal(parameter, old + 1) for parameter, old in zip(parameters, before, strict=True))
    weights.add_gradients(sum((parameter.square().sum() for parameter in parameters), torch.zeros(())))
    assert torch.equal(weights.grads, 2 * weights.values)
