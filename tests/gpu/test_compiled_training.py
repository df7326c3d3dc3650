"""The training pass of `solver pretrain` on CUDA devices: compiled, in bf16, in large batches. Only the first test needs one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.model.build import Shape, new_model
from solver.model.fused_training import decoder_states
from solver.pretrain.fast import compile_decoder, evaluating, fast_states
from solver.pretrain.loop import batch_losses, validate
from solver.pretrain.sampler import Sampler, SamplerSettings
from solver.pretrain.store import pack


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_bf16_training_on_cuda_agrees_with_fp32() -> None:
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])
    settings = SamplerSettings(batch_tokens=4096, block_batches=2, max_tokens=512)
    batch = next(Sampler(store, {}, grid_codec(), settings, 0).batches(0, 0))[2]
    model = new_model(Shape(hidden=64, layers=2, heads=2, ffn=192)).cuda()
    device = torch.device("cuda:0")

    def gradients(fast: bool) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        states, piece = fast_states(model) if fast else (decoder_states(model), None)
        total = 0.0
        for loss, _ in batch_losses(states, model.lm_head, batch, piece, device):
            loss.backward()
            total += float(loss)
        return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    exact, exact_grads = gradients(fast=False)
    rough, rough_grads = gradients(fast=True)
    assert rough == pytest.approx(exact, rel=0.01)
    for mine, theirs in zip(rough_grads, exact_grads, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 0.1


@pytest.mark.parametrize("config", [Qwen3Config, LlamaConfig])
def test_the_compiled_decoder_makes_no_mask(config: Any, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = AutoModelForCausalLM.from_config(config(vocab_size=16, **sizes))
    ids, places = torch.arange(90).reshape(3, 30) % 16, torch.arange(5, 90, 7)
    expected = decoder_states(model)(ids, places)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compile_decoder(model, backend)
    states = decoder_states(model)
    torch.testing.assert_close(states(ids, places), expected)
    for rows, tokens in ((3, 20), (5, 41)):  # other shapes, the same graph
        states(torch.zeros(rows, tokens, dtype=torch.long), torch.arange(9))
    assert len(graphs) == 1
    calls = [node.kwargs for node in graphs[0].graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    assert [(call["attn_mask"], call["is_causal"]) for call in calls] == [(None, True)] * 2
    model.save_pretrained(tmp_path)
    assert '"causal"' not in (tmp_path / "config.json").read_text()


def test_validation_uses_the_graph_of_training() -> None:
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])
    settings = SamplerSettings(batch_tokens=4096, block_batches=3, max_tokens=512)
    first, *others = (batch for _, _, batch in islice(Sampler(store, {}, grid_codec(), settings, 0).batches(0, 0), 3))
    model, device = new_model(Shape(hidden=64, layers=2, heads=2, ffn=192)).train(), torch.device("cpu")
    states, plain = decoder_states(model), validate(decoder_states(model), model, others, None, device)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compile_decoder(model, backend)
    for loss, _ in batch_losses(states, model.lm_head, first, None, device):
        loss.backward()
    compiled = len(graphs)
    assert compiled > 0
    assert validate(states, model, others, None, device) == pytest.approx(plain, rel=1e-5)
    assert len(graphs) == compiled
    assert model.training


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_compiled_model_with_dropout_is_evaluated_without_it(dropout: float) -> None:
    model = new_model(Shape(hidden=32, layers=1, heads=2, ffn=64)).train()
    model.get_decoder().layers[0].self_attn.attention_dropout = dropout
    compile_decoder(model, "eager")
    with evaluating(model):
        assert (model.training, torch.is_grad_enabled()) == ((False, False) if dropout else (True, True))
    assert model.training


def test_batches_of_a_gpu_hold_little_padding() -> None:
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks)
    settings = SamplerSettings(batch_tokens=131072, max_tokens=1024)
    batches = Sampler(store, {}, grid_codec(), settings, 0).block(0)
    read, padded = sum(batch.tokens for batch in batches), sum(batch.ids.size for batch in batches)
    assert read / padded > 0.9
    assert max(batch.ids.size for batch in batches) <= 131072
    assert np.mean([batch.ids.size for batch in batches]) > 0.8 * 131072
