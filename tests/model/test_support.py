"""What is said of a model before any work: by its configuration, in one line with what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_models import byte_level_tokenizer, random_model, write_folder
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

from solver.config import InferSettings, ModelSettings, Settings, TrainSettings
from solver.errors import InputError
from solver.infer.hf import HFEngine
from solver.model.dequantise import dequantised_folder
from solver.model.folder import check_folder, count_weights
from solver.model.load import load_base
from solver.model.support import attention_refusal, folder_quantization, read_config, settings_for
from solver.train.registry import choose_trainer, make_trainer
from solver.types import NEVER, FitJob, SampleRequest, TokenSequence

FP32 = ModelSettings(dtype="float32", device="cpu")
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Gemma2Config(), "attn_logit_softcapping = 50"),
        (Gemma3TextConfig(), "see 4096 tokens back, fewer than the context of 8192: set model.context=4096"),
        (MistralConfig(), "set model.context=4096"),
        (MistralConfig(sliding_window=None), ""),
        (MistralConfig(sliding_window=8192), ""),
        (StableLmConfig(), "models of the kind stablelm are not supported"),
        (Qwen2Config(sliding_window=512), ""),
        (Qwen3Config(use_sliding_window=True, sliding_window=512, max_window_layers=1), "set model.context=512"),
        (Phi3Config(original_max_position_embeddings=4096, max_position_embeddings=131072, rope_parameters=LONGROPE), "longrope"),
    ],
)
def test_configurations_as_transformers_has_them(config: Any, words: str) -> None:
    why = attention_refusal(config.to_dict(), 8192)
    assert words in why if words else why == ""
    assert "\n" not in why


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, "model.context=4096"),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, ""),
        ({"model_type": "qwen2", "sliding_window": 4096}, ""),
        ({"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 2047}, ""),  # no longer sequences are made
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024}}, "model.context=1024"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "layers of the kind conv"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, "=4096"),
        ({"model_type": "unheard-of"}, ""),  # a trial decides
        ({}, ""),
    ],
)
def test_configurations_as_they_are_written(config: dict[str, Any], words: str) -> None:
    why = attention_refusal(config, 8192)
    assert words in why if words else why == ""


def test_a_context_within_the_window_is_served_exactly(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, sliding_window=64,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"set model\.context=64"):
        HFEngine(load_base(tmp_path, FP32), InferSettings())
    base = load_base(tmp_path, FP32.model_copy(update={"context": 64}))
    ids = torch.arange(50)[None]
    request = SampleRequest("a", ids[0].numpy().astype(np.int32), None, 1, 0.0, 1)
    given = next(HFEngine(base, InferSettings(grammar=False)).sample([request], NEVER)).completions[0]
    assert given.logprobs[0] == pytest.approx(float(base.model(ids).logits[0, -1].log_softmax(-1).max()), abs=1e-4)


def test_an_unknown_architecture_is_tried_and_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.infer.trial.VERIFIED", frozenset())
    write_folder(tmp_path, "llama", True)
    base = load_base(tmp_path, FP32)
    HFEngine(base, InferSettings())  # right, though nobody knew it
    plain = base.model.forward

    def noisy(*args: Any, **kwargs: Any) -> Any:
        out = plain(*args, **kwargs)
        out.logits = out.logits * (1.0 if "shared_cache" in kwargs else 1.1)
        return out

    monkeypatch.setattr(base.model, "forward", noisy)
    with pytest.raises(InputError, match="models of the kind llama are not supported: the probabilities computed here differ"):
        HFEngine(base, InferSettings())


# -- folders


def test_an_adapter_is_named_as_one_with_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    expected = "an adapter of some/base, not a model: give its base as --model, and this folder as --adapter"
    with pytest.raises(InputError, match=expected):
        check_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="an adapter of a base that it does not name"):
        check_folder(tmp_path)


def test_a_cache_is_named_as_one_with_the_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "models--org--name"):
        with pytest.raises(InputError, match=f"a Hugging Face cache.*give .*{snapshot}"):
            check_folder(folder)


@pytest.mark.parametrize(
    ("quantization", "how"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "8-bit bitsandbytes"),
    ],
)
def test_weights_quantised_in_other_ways_are_refused(tiny_base: Path, tmp_path: Path, quantization: Any, how: str) -> None:
    config = json.loads((tiny_base / "config.json").read_text()) | {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"quantised by {how}, .*the folder they were made from"):
        check_folder(tmp_path)


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama folder that bitsandbytes has packed, and, beside it, the one it was made from."""
    folder = tmp_path_factory.mktemp("packed")
    tokenizer = byte_level_tokenizer()
    random_model("llama", False, len(tokenizer)).save_pretrained(folder / "plain")
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    packed = AutoModelForCausalLM.from_pretrained(folder / "plain", quantization_config=packing, dtype=torch.float32)
    packed.save_pretrained(folder / "packed")
    tokenizer.save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "packed")
    return folder / "packed"


def test_a_folder_quantised_in_advance_counts_as_quantised(four_bits: Path, tmp_path: Path) -> None:
    assert folder_quantization(read_config(four_bits)) == "nf4"
    assert settings_for(four_bits, Settings()).model.quantization == "nf4"
    assert count_weights(four_bits) == count_weights(four_bits.parent / "plain")
    base, described = (load_base(four_bits, FP32, weights=weights, cache=tmp_path) for weights in (True, False))
    assert (base.quantized, described.quantized) == (True, True)
    assert base.parameters == described.parameters == count_weights(four_bits)
    assert choose_trainer(base, TrainSettings())[0] != "full"
    with pytest.raises(InputError, match="quantised"):
        make_trainer(base, TrainSettings(trainer="full"), tmp_path)
    ids = torch.arange(20)[None]
    whole = load_base(dequantised_folder(base, tmp_path / "weights"), FP32)
    assert not whole.quantized
    assert torch.allclose(whole.model(ids).logits, base.model(ids).logits, atol=1e-3)


def test_lora_is_fitted_beside_weights_quantised_in_advance(four_bits: Path, tmp_path: Path) -> None:
    base = load_base(four_bits, FP32)
    trainer = make_trainer(base, TrainSettings(rank=4), tmp_path)
    sequence = TokenSequence(np.arange(20, dtype=np.int32), np.ones(20, dtype=np.float32))
    fit = next(iter(trainer.fit([FitJob("a", (sequence,), 3, 0)], NEVER)))
    assert (fit.status, fit.steps) == ("complete", 3)
    assert fit.adapter is not None
    request = SampleRequest("a", np.arange(9, dtype=np.int32), fit.adapter, 1, 0.0, 5)
    assert next(HFEngine(base, InferSettings()).sample([request], NEVER)).status == "complete"


# -- runs


@pytest.mark.parametrize("kind", ["gemma2", "stablelm"])
def test_a_run_refuses_before_any_worker(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    config = {"gemma2": Gemma2Config, "stablelm": StableLmConfig}[kind]()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config.to_dict()))
    (tmp_path / "model" / "model.safetensors").write_bytes((tiny_base / "model.safetensors").read_bytes())
    (tmp_path / "task.json").write_text('{"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]]}]}')
    command = [sys.executable, "-m", "solver", "run", "task.json", "--model", "model", "--out", "out", "--budget", "10m"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ}, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "model: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_vllm_by_name_has_attention_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MistralConfig().to_dict()))
    settings = Settings(infer=InferSettings(engine="vllm"))
    assert settings_for(tmp_path, settings) is settings
    with pytest.raises(InputError, match=r"set model\.context=4096"):
        settings_for(tmp_path, Settings())
