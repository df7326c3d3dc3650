"""Which models the engine `hf` computes exactly, by their configuration. Needs no torch, so it runs before any worker starts.

The engine replaces the attention of transformers' models by its own: full causal attention over a cache of shared prompts. That
gets the queries, keys and values of each layer and nothing else, so it is exact if a layer's attention needs nothing else.
`VERIFIED` and `UNSUPPORTED` are model types for which `tests/infer/test_architectures.py` compared both on small random models. A
trial when the model is loaded (`infer.trial`) decides on types in neither, and on all types if another release of transformers is
installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import read_json
from solver.config import Settings
from solver.errors import InputError


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


VERIFIED_WITH = "5.17"  # the release of transformers that was compared: in 5.0 GPT-2 and others fail
VERIFIED = _words(
    "apertus arcee aria_text biogpt bitnet cohere cohere2 cohere2_moe ctrl cwm dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe",
    "flex_olmo fuyu gemma gemma3_text glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neox granite granitemoe granitemoeshared",
    "helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax jais2 llama mellum minimax_m2 ministral ministral3 mistral mixtral",
    "nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open",
    "starcoder2",
)

_REASONS = {  # model types by the reason for which they are refused, as in "models of the kind X are not supported: ..."
    "their attention in transformers is not open to the cache that this package computes with": _words(
        "big_bird bigbird_pegasus bloom codegen cpmant doge falcon git gpt_neox_japanese gptj jetmoe moshi mpt nemotron",
        "openai-gpt prophetnet reformer stablelm xglm xlm xlnet",
    ),
    "their attention is not the plain causal one that this package computes": _words(
        "deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama gpt_oss hrm_text longcat_flash minicpm3 youtu",
    ),
    "they count positions in a way that this package does not follow": _words(
        "bart blenderbot blenderbot-small marian mbart mvp pegasus plbart trocr whisper",
    ),
    "they are encoders, whose final states this package cannot train": _words(
        "bert camembert data2vec-text electra ernie megatron-bert modernbert-decoder rembert roberta roberta-prelayernorm",
        "roc_bert roformer xlm-roberta xlm-roberta-xl xmod",
    ),
    "they have layers without attention, whose state this package does not keep": _words(
        "bamba falcon_h1 falcon_mamba granitemoehybrid jamba kimi_linear mamba mamba2 minimax nemotron_h olmo_hybrid qwen3_5",
        "qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba zamba2",
    ),
}
UNSUPPORTED: Mapping[str, str] = {kind: why for why, kinds in _REASONS.items() for kind in kinds}

_FULL, _SLIDING = "full_attention", "sliding_attention"
# these use a sliding window only if `use_sliding_window` is true, and it is false by default
_SLIDING_IF_SET = ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3")
_CAPS = ("attn_logit_softcapping", "attention_logits_soft_cap")
_ADVICE = "this package works with Llama, Mistral, Qwen 2 and 3, Phi-3, Granite, OLMo 2, SmolLM and others of their kind"


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


def attention_refusal(config: Mapping[str, Any], context: int) -> str:
    """Why the engine `hf` cannot serve sequences of up to `context` tokens, in one line with a remedy; empty if it can.

    `config`: the content of a config.json, or a transformers configuration as a dictionary.
    """
    if why := UNSUPPORTED.get(str(config.get("model_type"))):
        return f"models of the kind {config['model_type']} are not supported: {why}; {_ADVICE}"
    config = text_config(config)
    kind = str(config.get("model_type"))
    if why := UNSUPPORTED.get(kind):
        return f"models of the kind {kind} are not supported: {why}; {_ADVICE}"
    for name in _CAPS:
        if config.get(name):
            return f"attention scores are capped ({name} = {config[name]}), which this package does not compute; {_ADVICE}"
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int):
        context = min(context, limit)
    layers = config.get("layer_types")
    kinds = {str(layer) for layer in layers} if isinstance(layers, list | tuple) else set()
    if others := sorted(kinds - {_FULL, _SLIDING}):
        return f"layers of the kind {', '.join(others)} are not supported, only full causal attention is; {_ADVICE}"
    window = _window(config, kind, kinds)
    if window is not None and window < context:
        return (
            f"only full causal attention is supported, and layers of this model see {window} tokens back, fewer than the context "
            f"of {context}: set model.context={window} (--set), which the window covers"
        )
    short = _short_rotary(config)
    if short is not None and short < context:
        return (
            f"the rotary frequencies change beyond {short} tokens (longrope), which keys in a cache do not follow, and the "
            f"context is {context}: set model.context={short} (--set)"
        )
    return ""


def _window(config: Mapping[str, Any], kind: str, kinds: set[str]) -> int | None:
    """The number of tokens that layers with a sliding window see, the token itself included; None without such layers."""
    window = config.get("sliding_window")
    if not isinstance(window, int) or (kinds and _SLIDING not in kinds):
        return None
    return window if config.get("use_sliding_window", kind not in _SLIDING_IF_SET) else None


def _short_rotary(config: Mapping[str, Any]) -> int | None:
    """The number of tokens up to which longrope uses one set of frequencies; None for other rotary embeddings."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, Mapping) and (rope.get("rope_type") or rope.get("type")) in ("longrope", "su"):
            limit = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
            return int(limit) if isinstance(limit, int) else 0
    return None


def folder_quantization(config: Mapping[str, Any]) -> str:
    """How the weights of a folder are quantised by its config.json: "none", or "nf4" for any 4-bit weights of bitsandbytes.

    Raises ValueError for other quantisations.
    """
    quantization = config.get("quantization_config") or text_config(config).get("quantization_config")
    if not isinstance(quantization, Mapping):
        return "none"
    method = quantization.get("quant_method")
    if quantization.get("load_in_4bit") and method in (None, "bitsandbytes"):
        return "nf4"
    how = "8-bit bitsandbytes" if quantization.get("load_in_8bit") else str(method)
    raise ValueError(
        f"its weights are quantised by {how}, and 4-bit bitsandbytes is what this package reads: give the folder they were made "
        "from, with --set model.quantization=nf4 if memory is short"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder. Raises InputError naming it if it cannot be read as one."""
    file = folder / "config.json"
    config = read_json(file, "model configuration")
    if not isinstance(config, dict):
        raise InputError(f"{file}: not a model configuration")
    return config


def settings_for(folder: Path, settings: Settings) -> Settings:
    """The settings of a run on the model in a checked folder: model.quantization is that of the folder if it is quantised.

    Raises InputError for a model whose attention `hf` cannot compute, unless infer.engine is "vllm", which has its own.
    """
    config = read_config(folder)
    why = "" if settings.infer.engine == "vllm" else attention_refusal(config, settings.model.context)
    if why:
        raise InputError(f"{folder}: {why}")
    if settings.model.quantization == "none" and folder_quantization(config) != "none":
        return settings.model_copy(update={"model": settings.model.model_copy(update={"quantization": "nf4"})})
    return settings
