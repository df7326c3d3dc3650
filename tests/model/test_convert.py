"""Conversion of base models: the same logits, for the tokens that grids use alone, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from text_models import (
    FAMILIES,
    architects_tokenizer,
    byte_level_tokenizer,
    nvarc_tokenizer,
    random_model,
    write_folder,
    write_gguf,
)
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks
from solver.cli import app
from solver.codec import Codec, cut_tokenizer, text_codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.convert import Vocabulary, convert
from solver.model.load import load_base

CPU = ModelSettings(dtype="float32", device="cpu")
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}

families = pytest.mark.parametrize("family", FAMILIES)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def prompt(codec: Codec) -> torch.Tensor:
    (task,) = load_tasks("arc1:training").tasks[:1]
    return torch.from_numpy(codec.prompt(task, 0, 4096).ids.astype(np.int64))[None]


def assert_same_logits(model: Any, tokenizer: Any, folder: Path, vocabulary: Vocabulary) -> None:
    """The model of `folder` answers a prompt as `model` does, on the tokens that both know."""
    base = load_base(folder, CPU)
    full = text_codec(tokenizer)
    ids, cut = prompt(full), prompt(base.codec)
    with torch.no_grad():
        expected, found = model(ids).logits, base.model(cut).logits
    if vocabulary == "grid":
        assert found.shape[-1] == len(full.vocabulary)
        expected = expected[..., list(full.vocabulary)]
        assert torch.equal(cut, torch.tensor([[full.vocabulary.index(int(i)) for i in ids[0]]]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vocabulary", ["full", "grid"])
@pytest.mark.parametrize("name", ["nvarc", "architects"])
def test_a_described_prompt_format_goes_along(name: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    model = random_model("llama", True, 80)
    model.save_pretrained(source)
    {"nvarc": nvarc_tokenizer, "architects": architects_tokenizer}[name](source)
    (source / "format.json").write_text(f'{{"format": "{name}"}}')
    convert(source, out, vocabulary)
    before, after = load_base(source, CPU), load_base(out, CPU)
    assert after.codec.name == f"{name}-1"
    ids, same = prompt(before.codec), prompt(after.codec)
    kept = list(before.codec.vocabulary) if vocabulary == "grid" else list(range(80))
    with torch.no_grad():
        torch.testing.assert_close(after.model(same).logits, model(ids).logits[..., kept], rtol=1e-5, atol=1e-5)


@families
@tied_or_not
def test_a_cut_model_has_the_logits_of_the_tokens_kept(family: str, tied: bool, tmp_path: Path) -> None:
    model = write_folder(tmp_path / "full", family, tied)
    done = convert(tmp_path / "full", tmp_path / "cut", "grid")
    kept = len(text_codec(byte_level_tokenizer()).vocabulary)
    assert (done.tokens, done.tokens_before) == (kept, model.config.vocab_size)
    assert done.weights == load_base(tmp_path / "cut", CPU).parameters < model.num_parameters()
    assert_same_logits(model, byte_level_tokenizer(), tmp_path / "cut", "grid")
    reloaded = load_base(tmp_path / "cut", CPU).model
    assert (reloaded.get_output_embeddings().weight is reloaded.get_input_embeddings().weight) == tied


def test_dtypes_are_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "full", "qwen3", tied=True, dtype=torch.bfloat16)
    convert(tmp_path / "full", tmp_path / "same")
    convert(tmp_path / "full", tmp_path / "wide", dtype="float32")
    found = {name: load_base(tmp_path / name, ModelSettings(dtype="bfloat16", device="cpu")) for name in ("same", "wide")}
    assert '"dtype": "bfloat16"' in (tmp_path / "same" / "config.json").read_text()
    assert '"dtype": "float32"' in (tmp_path / "wide" / "config.json").read_text()
    for base in found.values():
        for mine, theirs in zip(base.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_the_cut_tokenizer_writes_what_the_codec_writes(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    codec = text_codec(tokenizer)
    cut = cut_tokenizer(tokenizer, codec.vocabulary)
    mine = text_codec(cut)
    assert mine == codec.renumbered({old: new for new, old in enumerate(codec.vocabulary)})
    assert mine.cells == tuple(range(10))
    ids = prompt(mine)[0].tolist()
    assert cut.decode(ids) == tokenizer.decode(prompt(codec)[0].tolist())
    assert cut.encode(cut.decode(ids), add_special_tokens=False) == ids


@pytest.mark.parametrize("vocabulary", ["full", "grid"])
@families
def test_gguf_files_become_the_models_they_were_made_from(family: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = write_gguf(tmp_path / "model.gguf", family, tied=family != "qwen2")
    convert(tmp_path / "model.gguf", tmp_path / "out", vocabulary)
    assert_same_logits(model, byte_level_tokenizer(), tmp_path / "out", vocabulary)
    config = (tmp_path / "out" / "config.json").read_text()
    assert "gguf" not in config
    assert '"dtype": "float32"' in config


def test_the_scaled_frequencies_of_llama_3_survive_gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    model = write_gguf(tmp_path / "model.gguf", "llama", tied=True, rope_parameters=LLAMA3)
    convert(tmp_path / "model.gguf", tmp_path / "out")
    assert load_base(tmp_path / "out", CPU).model.config.rope_parameters["factor"] == pytest.approx(32)
    assert_same_logits(model, byte_level_tokenizer(), tmp_path / "out", "full")
    model = write_gguf(tmp_path / "other.gguf", "llama", tied=True, rope_parameters=LLAMA3 | {"low_freq_factor": 2.0})
    assert "rotary frequencies" in refusal(tmp_path / "other.gguf", tmp_path / "never")


def refusal(source: Path, out: Path, vocabulary: Vocabulary = "full") -> str:
    with pytest.raises(InputError) as caught:
        convert(source, out, vocabulary)
    assert "\n" not in str(caught.value)
    assert not [p for p in out.parent.iterdir() if p.name.endswith(".part")]
    return str(caught.value)


def test_what_is_no_model_is_refused_by_name(tiny_base: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "model"
    assert "no such file" in refusal(tmp_path / "nowhere", out)
    (tmp_path / "text").write_text("hello")
    assert "neither a GGUF file nor a folder" in refusal(tmp_path / "text", out)
    assert "nothing is to be converted" in refusal(tiny_base, out)
    write_folder(source, "llama", tied=False)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    assert "pickled weights" in refusal(source, out)
    assert not out.exists()


def test_damaged_gguf_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "whole.gguf", "qwen3", tied=True)
    data = (tmp_path / "whole.gguf").read_bytes()
    for size in (4, 100, len(data) // 8, len(data) - 1000):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        assert str(tmp_path / "cut.gguf") in refusal(tmp_path / "cut.gguf", tmp_path / "out")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("solver.model.convert.find_spec", lambda name: None)
    assert 'pip install "solver[cpu]"' in refusal(tmp_path / "model.gguf", tmp_path / "out")


def test_tokenizers_that_cannot_write_grids_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "llama", tied=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / file).unlink()
    assert "tokenizer" in refusal(tmp_path / "model", tmp_path / "out")


def test_quantised_folders_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "llama", tied=True)
    config = tmp_path / "model" / "config.json"
    text = config.read_text().replace(
        '"model_type"', '"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}, "model_type"'
    )
    config.write_text(text)
    assert str(tmp_path / "model") in refusal(tmp_path / "model", tmp_path / "out")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "llama", tied=True)
    shutil.copytree(tmp_path / "model", tmp_path / "out")
    assert "is there already" in refusal(tmp_path / "model", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "model", tmp_path / "empty").folder == tmp_path / "empty"


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "qwen2", tied=True)
    arguments = ["convert", str(tmp_path / "model"), "--out", str(tmp_path / "cut"), "--vocabulary", "grid"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "18 of 279 tokens" in said.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
