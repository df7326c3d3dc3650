"""Converts a GGUF file or a Hugging Face folder to a folder of safetensors that `--model` takes.

The vocabulary can be cut to the tokens that grids use. Ordinary models have 50,000 to 250,000 tokens, of which grids use
about 16, and the logits of the others take gigabytes for a long sequence.

transformers dequantises a GGUF file, exactly. This module corrects what transformers gets wrong or leaves out there: the special
tokens (a Llama tokenizer would end with its begin token), the size of Qwen 3's heads, and Llama 3's scaled rotary frequencies.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from solver.codec import cut_tokenizer, text_codec
from solver.errors import InputError, one_line
from solver.model.folder import check_folder
from solver.model.load import check_loaded, load_text_codec, prove_tokenizer, quiet
from solver.prompt_format import FORMAT_FILE

if TYPE_CHECKING:
    from solver.codec import Codec

Vocabulary = Literal["full", "grid"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_MAGIC = b"GGUF"
_ROPE_FREQUENCIES = "rope_freqs.weight"  # the tensor of a GGUF file by which the rotary frequencies are divided
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    folder: Path
    weights: int  # their number
    tokens: int  # of the new vocabulary
    tokens_before: int  # of the original vocabulary


def convert(
    source: Path,
    out: Path,
    vocabulary: Vocabulary = "full",
    dtype: Dtype = "auto",
    report: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Write the model in `source` to the new folder `out`, for `--model out`.

    The dtype "auto" keeps that of the weights. Weights of a GGUF file become float32, which holds every quantised number exactly.
    `out` appears when it is complete. Raises InputError if `source` is neither a GGUF file nor a model folder, has pickled or
    quantised weights, or a tokenizer that cannot write grids; and if `out` exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is there already; choose another folder")
    gguf = _is_gguf(source)
    if not gguf:
        check_folder(source)
        if (source / "codec.json").exists():
            raise InputError(f"{source}: has the grid vocabulary and is in safetensors: nothing is to be converted")
    report(f"reading {source}")
    with _parsed_once() if gguf else nullcontext():
        place, options = (source.parent, {"gguf_file": source.name}) if gguf else (source, {})
        tokenizer = _read_tokenizer(source, place, options)
        if gguf:
            try:
                codec = text_codec(tokenizer)
            except ValueError as error:
                raise InputError(f"{source}: wrong vocabulary: {error}") from None
        else:
            tokenizer, codec = prove_tokenizer(tokenizer, source)
        model = _read_model(source, place, options, dtype)
    before = int(model.get_input_embeddings().num_embeddings)
    if max(codec.vocabulary) >= before:
        raise InputError(f"{source}: wrong vocabulary: the tokenizer has more tokens than the model's {before}")
    if vocabulary == "grid":
        try:
            tokenizer = cut_tokenizer(tokenizer, codec.vocabulary)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from None
        codec = codec.renumbered(cut_vocabulary(model, codec))
    report(f"writing {out}")
    _write(model, tokenizer, codec, out, source / FORMAT_FILE)
    return Converted(out, int(model.num_parameters()), int(model.get_input_embeddings().num_embeddings), before)


def cut_vocabulary(model: Any, codec: Codec) -> dict[int, int]:
    """Keep only the rows of embedding and head that `codec` uses, in the order of its vocabulary. Gives new ids by old ids.

    Tied weights stay tied. The logits of the kept tokens stay the same.
    """
    kept = torch.tensor(codec.vocabulary)
    ids = {old: new for new, old in enumerate(codec.vocabulary)}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    rows = nn.Embedding(len(kept), embedding.embedding_dim, padding_idx=ids[codec.pad])
    rows.weight = nn.Parameter(embedding.weight.detach()[kept], requires_grad=False)
    out = nn.Linear(head.in_features, len(kept), bias=head.bias is not None)
    out.weight = rows.weight if tied else nn.Parameter(head.weight.detach()[kept], requires_grad=False)
    if head.bias is not None:
        out.bias = nn.Parameter(head.bias.detach()[kept], requires_grad=False)
    model.set_input_embeddings(rows)
    model.set_output_embeddings(out)
    model.config.vocab_size = model.vocab_size = len(kept)
    return ids


def _is_gguf(source: Path) -> bool:
    """True for a GGUF file, False for a folder. Raises InputError for any other file, and if the package `gguf` is missing."""
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.is_dir():
        return False
    try:
        with source.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from None
    if head != _MAGIC:
        raise InputError(f"{source}: neither a GGUF file nor a folder in Hugging Face format")
    if find_spec("gguf") is None:
        raise InputError(f'{source}: reading it needs the package gguf: pip install "solver[cpu]"')
    return True


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse a GGUF file only once in this block. transformers would parse it five times, and each time takes seconds."""
    import gguf

    parse = gguf.GGUFReader
    gguf.GGUFReader = cache(parse)
    try:
        yield
    finally:
        gguf.GGUFReader = parse


def _read_tokenizer(source: Path, place: Path, options: Mapping[str, str]) -> Any:
    import transformers

    try:
        with quiet(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                place, local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:  # transformers may raise anything for a bad file, and the file is the user's input
        raise InputError(f"{source}: cannot load the tokenizer: {one_line(error)}") from None
    if options:
        tokenizer.clean_up_tokenization_spaces = False
        metadata, _ = _metadata(source)
        for role, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
            id_ = metadata.get(f"tokenizer.ggml.{name}_token_id")
            if id_ is not None:
                setattr(tokenizer, role, tokenizer.convert_ids_to_tokens(int(id_)))
    return tokenizer


def _read_model(source: Path, place: Path, options: Mapping[str, str], dtype: Dtype) -> Any:
    """The model on the CPU, in eval mode."""
    import transformers

    with quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False, **options)
            if options:
                _complete(config, source)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                place,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{source}: cannot load the model: {one_line(error)}") from None
    check_loaded(info, source, "the configuration")
    if options:
        _forget_gguf(model)
    elif getattr(model.config, "quantization_config", None) is not None:
        raise InputError(f"{source}: the weights are quantised; convert the folder that they were quantised from")
    return model.eval()


def _forget_gguf(model: Any) -> None:
    """Remove the marks of quantisation, which transformers would save: the weights are dequantised."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def _complete(config: Any, source: Path) -> None:
    """Add to a configuration what the GGUF file has and transformers does not read.

    That is the size of Qwen 3's heads, and Llama 3's scaled rotary frequencies, for which the file holds divisors. Raises
    InputError for divisors that Llama 3's scaling does not explain.
    """
    metadata, tensors = _metadata(source)
    size = metadata.get(f"{metadata['general.architecture']}.attention.key_length")
    if size is not None and hasattr(config, "head_dim"):
        config.head_dim = int(size)
    if _ROPE_FREQUENCIES not in tensors:
        return
    from gguf import GGUFReader
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stored = next(tensor for tensor in GGUFReader(str(source)).tensors if tensor.name == _ROPE_FREQUENCIES)
    divisors = torch.tensor(stored.data).float().flatten()
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(len(divisors)) / len(divisors))
    scaling = {**_LLAMA3_SCALING, "rope_type": "llama3", "factor": float(divisors.max())}
    config.rope_parameters = {**config.rope_parameters, **scaling}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    if not torch.allclose(plain / divisors, scaled, rtol=1e-4):
        raise InputError(
            f"{source}: its rotary frequencies are scaled in a way that is not supported; convert the model's safetensors folder"
        )


def _metadata(source: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The metadata of a GGUF file, and the names of its tensors."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata: dict[str, Any]
    tensors: tuple[str, ...]
    metadata, tensors = read_gguf_metadata(str(source))
    return metadata, tensors


def _write(model: Any, tokenizer: Any, codec: Codec, out: Path, format_file: Path) -> None:
    """Write a folder beside `out`, then rename it: `out` is never incomplete. `format_file` is copied if it exists."""
    import transformers

    special = {"bos_token_id": codec.begin[0] if codec.begin else None, "eos_token_id": codec.end, "pad_token_id": codec.pad}
    model.config.update(special)
    model.generation_config = transformers.GenerationConfig(**special)
    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with quiet(transformers):
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
        if format_file.is_file():
            shutil.copyfile(format_file, part / FORMAT_FILE)
        if load_text_codec(part) != codec:
            raise InputError(f"{part}: this tokenizer cannot be cut to the tokens that grids use")
        if out.exists():
            out.rmdir()  # empty
        part.rename(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
