"""Every causal language model that transformers ships: the engine gives the log-probabilities of transformers, or refuses it.

A tiny random model of each architecture is compared with itself behind the engine, on sequences shorter and longer than its
sliding window. What `solver.model.support` says of an architecture has to be what comes out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from solver.errors import InputError
from solver.infer.cache import SharedPrefixCache
from solver.infer.forward import Forward
from solver.infer.trial import check_model, trial
from solver.model.fused_training import decoder_states
from solver.model.head import OutputHead
from solver.model.load import share
from solver.model.support import UNSUPPORTED, VERIFIED, VERIFIED_WITH, attention_refusal

CONTEXT, WINDOW = 64, 16  # tokens
CPU = torch.device("cpu")
EXACT = 1e-4  # of log-probabilities
_NAMES: Mapping[int, str] = {
    2: "num_hidden_layers n_layer num_layers n_layers decoder_layers num_decoder_layers num_key_value_heads num_experts_per_tok "
    "index_n_heads mamba_expand",
    1: "encoder_layers n_shared_experts n_group topk_group bos_token_id",
    0: "pad_token_id",
    4: "num_attention_heads n_head num_heads n_heads decoder_attention_heads num_local_experts num_experts n_routed_experts "
    "mamba_n_heads",
    8: "head_dim kv_channels mamba_d_state index_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim "
    "hidden_size_per_layer_input",
    16: "q_lora_rank kv_lora_rank moe_intermediate_size shared_expert_intermediate_size mamba_d_head index_topk",
    32: "hidden_size d_model n_embd embed_dim dim word_embed_proj_dim embedding_size",
    40: "vocab_size vocab_size_per_layer_input",
    48: "intermediate_size n_inner ffn_dim ffn_hidden ffn_hidden_size decoder_ffn_dim",
    256: "max_position_embeddings n_positions n_ctx max_seq_len seq_length",
    3: "eos_token_id",
}
SIZES: dict[str, Any] = {name: value for value, names in _NAMES.items() for name in names.split()} | {"is_decoder": True}
OTHERS: dict[str, dict[str, Any]] = {  # settings that some architectures need: here every head has keys of its own
    kind: {"num_key_value_heads": 4, "head_dim": 8}
    for kind in ("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu")
}
OTHERS["granite"] = {"logits_scaling": 8.0}
OTHERS["nanochat"] = {"final_logit_softcapping": 3.0}
OTHERS["hyperclovax"] = {"logits_scaling": 0.5}
WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_chunk_size")
# left out: models of several parts (with encoders for images or speech), and models that cannot be built small
LARGE = (
    *("blt", "emu3", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "llama4", "mllama", "nemotron_h", "phi4_multimodal"),
    *("qwen3_5", "qwen3_5_moe", "qwen4_exp"),
)
KINDS = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in LARGE]


@cache
def tiny(kind: str, window: int) -> Any:
    """A random fp32 model in eval mode, or None if none of this kind can be built with these sizes."""
    try:
        plain = CONFIG_MAPPING[kind]()
        known = {*plain.to_dict(), *getattr(plain, "attribute_map", {})}
        sizes = SIZES | OTHERS.get(kind, {}) | dict.fromkeys(WINDOWS, window)
        chosen = {name: value for name, value in sizes.items() if name in known}
        layers = getattr(plain, "layer_types", None)
        if layers:
            chosen["layer_types"] = (list(dict.fromkeys(layers)) * 2)[:2]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = CONFIG_MAPPING[kind](**chosen)
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval()
            with torch.no_grad():
                for name, value in model.named_parameters():
                    scale = value.dim() == 1 and name.endswith("weight") and "norm" in name.lower()
                    value.copy_(torch.randn_like(value) * 0.3 + scale)
            model(input_ids=torch.arange(3, 13)[None], use_cache=False)
    except Exception:  # a configuration class may object to sizes, an architecture to sdpa
        return None
    return model


@torch.inference_mode()
def difference(model: Any, length: int) -> float:
    """The largest difference of log-probabilities between the engine and the model's own forward pass, on `length` tokens.

    The latter is taken with transformers' "eager" attention: "sdpa" leaves out what some models ask for.
    """
    ids = torch.randint(3, 38, (2, length), generator=torch.Generator().manual_seed(length))
    model.set_attn_implementation("eager")
    own = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    model.set_attn_implementation("sdpa")
    cut, short, forward = length - 8, length - 11, Forward(share(model), CPU)
    store = SharedPrefixCache(CPU, 10**6)
    prompts = [ids[0, :cut].numpy().astype(np.int32), ids[1, :short].numpy().astype(np.int32)]
    first = forward.prefill(store, prompts, [0, 0]).log_softmax(-1)
    store.add_rows(np.array([1, 0]))
    rows = np.stack([ids[1, short : short + 8].numpy(), ids[0, cut:].numpy()])
    after = torch.cat([forward.extend(store, 0, rows[:, part]) for part in (slice(0, 5), slice(5, 6), slice(6, 8))], 1)
    found = torch.cat([first[[1, 0]][:, None], after.log_softmax(-1)], 1)
    wanted = torch.stack([own[1, short - 1 : short + 8], own[0, cut - 1 :]])
    return float((found - wanted).abs().max())


def deviation(model: Any) -> float:
    """The largest difference on sequences around and beyond the window; infinite if the model does not run behind the engine."""
    try:
        return max(difference(model, length) for length in (12, WINDOW + 8, CONTEXT))
    except Exception:
        return float("inf")


def refused(model: Any) -> str:
    return attention_refusal(model.config.to_dict(), CONTEXT)


@pytest.mark.parametrize("window", [WINDOW, 2 * CONTEXT])
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gives_the_models_own_numbers_or_refuses_it(kind: str, window: int) -> None:
    model = tiny(kind, window)
    if model is None:
        assert kind not in VERIFIED
        return
    found = deviation(model)
    if not refused(model) and kind in VERIFIED:
        assert found < EXACT
    elif not refused(model):  # the model is in neither list, so the trial decides; it must be right
        assert (trial(model, CPU, CONTEXT) == "") == (found < EXACT and trained(model) < EXACT)


def test_with_another_transformers_nothing_counts_as_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = Path(__file__).parents[2] / "requirements/cpu.txt"
    assert f"\ntransformers=={VERIFIED_WITH}." in pins.read_text()
    monkeypatch.setattr("solver.infer.trial.trial", lambda *_: "other numbers")
    base: Any = SimpleNamespace(model=tiny("llama", 2 * CONTEXT), path=tmp_path, device=CPU, context=CONTEXT)
    monkeypatch.setattr("transformers.__version__", f"{VERIFIED_WITH}.1")
    check_model(base)
    monkeypatch.setattr("transformers.__version__", "5.0.0")
    with pytest.raises(InputError, match="models of the kind llama are not supported: other numbers"):
        check_model(base)


@torch.inference_mode()
def trained(model: Any) -> float:
    """The largest difference of log-probabilities between what trainers compute and the model's own."""
    ids = torch.randint(3, 38, (2, 24), generator=torch.Generator().manual_seed(0))
    own = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    try:
        states = decoder_states(model)(ids, torch.arange(ids.numel()))
        return float((OutputHead.of(model)(states).log_softmax(-1).view_as(own) - own).abs().max())
    except Exception:
        return float("inf")


@pytest.mark.parametrize("kind", sorted(VERIFIED))
def test_trainers_compute_the_logits_that_are_served(kind: str) -> None:
    assert trained(tiny(kind, 2 * CONTEXT)) < EXACT


def test_models_of_both_lists_were_built_and_the_lists_are_disjoint() -> None:
    built = {kind for kind in KINDS if tiny(kind, WINDOW) is not None}
    assert built >= VERIFIED
    assert {"bart", "diffllama", "stablelm"} <= built & UNSUPPORTED.keys()
    assert not VERIFIED & UNSUPPORTED.keys()
    assert UNSUPPORTED.keys() <= MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
