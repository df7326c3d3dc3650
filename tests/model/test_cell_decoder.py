"""The architecture with cell positions: the numbers of the shipped weights by every path, and who may load it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from plain_qwen3 import write_plain_qwen3
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.cache import SharedPrefixCache
from solver.infer.forward import Forward
from solver.infer.fused_decoding import FusedDecodingPass
from solver.infer.hf import HFEngine
from solver.model.build import Shape, new_model
from solver.model.cell_config import CellDecoderConfig, rotary_axes
from solver.model.cell_decoder import CellDecoderForCausalLM
from solver.model.folder import SHIPPED, check_folder
from solver.model.fused_training import FusedTrainingPass, States, decoder_states
from solver.model.load import Base, load_base, share
from solver.model.lora import LoraShape, attach
from solver.model.positions import from_start
from solver.types import NEVER, ScoreRequest

REFERENCE = json.loads((Path(__file__).parent / "reference.json").read_text())  # made in fp32 by another implementation
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["base", "mid"])
def shipped(request: pytest.FixtureRequest) -> tuple[Base, torch.Tensor, torch.Tensor]:
    """A shipped model in fp32, the ids of a task (1, tokens), and their log-probabilities (tokens - 1,)."""
    given = REFERENCE[request.param]
    base = load_base(SHIPPED[f"embedded-{request.param}"], ModelSettings(dtype="float32"))
    return base, torch.tensor(given["ids"])[None], torch.tensor(given["logprobs"])


def gathered(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of (tokens, vocabulary) logits, the log-probabilities of the ids that follow."""
    return torch.log_softmax(logits[:-1].float(), -1).gather(1, ids[0, 1:, None])[:, 0]


def assert_reference(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["base", "mid"])
def test_positions_are_those_of_the_reference(name: str) -> None:
    base = load_base(SHIPPED[f"embedded-{name}"], ModelSettings(), weights=False)
    found = from_start(base.model.get_decoder().positions, torch.tensor(REFERENCE[name]["ids"])[None])
    assert found[0].tolist() == REFERENCE[name]["positions"]


@pytest.mark.parametrize("path", [decoder_states, FusedTrainingPass])
@torch.inference_mode()
def test_a_whole_pass(path: type[States], shipped: tuple[Base, torch.Tensor, torch.Tensor]) -> None:
    base, ids, wanted = shipped
    states = path(base.model)(ids, torch.arange(ids.shape[1]))
    assert_reference(gathered(base.model.get_output_embeddings()(states), ids), wanted)


@pytest.mark.parametrize("piece", [1, 7, 400])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "modules"])
@torch.inference_mode()
def test_a_prompt_and_pieces_behind_it(
    shipped: tuple[Base, torch.Tensor, torch.Tensor], piece: int, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, ids, wanted = shipped
    if not fused:
        monkeypatch.setattr("solver.infer.fused_decoding.MAX_PARAMETERS", 0)
    start = 300 if piece == 1 else 200
    fused_passes = record_calls(monkeypatch, FusedDecodingPass, "logits")
    forward, cache = Forward(share(base.model), CPU), SharedPrefixCache(CPU, 10_000)
    prompt = ids[0, :start].numpy().astype(np.int32)
    logits = [forward.prefill(cache, [prompt, prompt[:-50]], [0, 0])[0]]
    cache.add_rows(np.array([0]))
    for at in range(start, ids.shape[1], piece):
        logits += forward.extend(cache, 0, ids[:, at : at + piece].numpy())[0]
    assert_reference(gathered(torch.stack(logits), ids[:, start - 1 :]), wanted[start - 1 :])
    assert bool(fused_passes) == fused


def test_scores_of_the_engine(shipped: tuple[Base, torch.Tensor, torch.Tensor]) -> None:
    base, ids, wanted = shipped
    prompt, answer = (part.numpy().astype(np.int32) for part in (ids[0, :250], ids[0, 250:]))
    [result] = HFEngine(base, InferSettings()).score([ScoreRequest("r", prompt, None, (answer,))], NEVER)
    assert_reference(torch.from_numpy(result.completions[0].logprobs), wanted[249:])


@torch.inference_mode()
def test_rows_of_a_stack(shipped: tuple[Base, torch.Tensor, torch.Tensor]) -> None:
    """A fresh adapter changes nothing, whichever of a stack it is."""
    base, ids, wanted = shipped
    stack = attach(base, LoraShape(4, 4.0), 2)
    for slot in (0, 1):
        stack.reset(slot, slot)
    stack.set_rows([1, 0])
    for logits in stack.model(ids.expand(2, -1)).logits:
        assert_reference(gathered(logits, ids), wanted)


@torch.inference_mode()
def test_angles_are_fp32_in_16_bits() -> None:
    """A rounded frequency would shift a cell; the weights alone are what a 16-bit model rounds."""
    exact = load_base(SHIPPED["embedded-base"], ModelSettings(dtype="float32"))
    half = load_base(SHIPPED["embedded-base"], ModelSettings(dtype="bfloat16"))
    at = torch.tensor([[[41, 29, 30]]])
    x = torch.zeros(1, dtype=torch.float32)
    for one, other in zip(*(base.model.get_decoder().rotary_emb(x, at) for base in (exact, half)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("key_heads", [1, 4])
def test_layers_give_the_numbers_and_gradients_of_qwen3(key_heads: int) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Shape(hidden=64, layers=2, heads=4, ffn=96)
    values = new_model(shape).config.to_dict() | {"num_key_value_heads": key_heads, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        ours = CellDecoderForCausalLM(CellDecoderConfig.from_dict(values))
        theirs = Qwen3ForCausalLM(Qwen3Config.from_dict({**values, "model_type": "qwen3"}))
        theirs.load_state_dict({name.replace("decoder.", "model."): value for name, value in ours.state_dict().items()})
    ids = torch.tensor(REFERENCE["base"]["ids"])[None, :90]
    rotation = ours.decoder.rotary_emb(torch.zeros(1), from_start(ours.decoder.positions, ids))
    theirs.model.rotary_emb.forward = lambda *_, **__: rotation
    logits = [model(ids).logits for model in (ours, theirs)]
    torch.testing.assert_close(*logits, atol=1e-6, rtol=1e-6)
    for one in logits:
        one.log_softmax(-1)[:, :, 3].sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-6 * other.grad.norm(), name


def test_generate_of_transformers_gives_what_plain_passes_give(tiny_base: Path) -> None:
    import solver.model.transformers_registration  # noqa: F401

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    ids = torch.tensor([[14, 11, 1, 2, 10, 3, 4, 12]])
    found = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    for length in range(ids.shape[1], found.shape[1]):
        assert model(found[:, :length]).logits[0, -1].argmax() == found[0, length]


def test_other_programs_refuse_the_folder(tiny_base: Path) -> None:
    """With this package installed but not imported, and for weights that somebody reads as a Qwen3's."""
    code = f"""
from transformers import AutoConfig, AutoModelForCausalLM
for auto in (AutoConfig, AutoModelForCausalLM):
    try:
        auto.from_pretrained({str(tiny_base)!r})
    except ValueError as error:
        assert "cell_decoder" in str(error), error
    else:
        raise SystemExit("loaded")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name.startswith("decoder.") for name in load_file(tiny_base / "model.safetensors"))


def test_a_copy_that_transformers_loads_and_saves_is_a_model_again(tiny_base: Path, tmp_path: Path) -> None:
    import solver.model.transformers_registration  # noqa: F401

    shutil.copytree(tiny_base, tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(tmp_path / "model")
    ids = torch.arange(16)[None]
    ours, again = (
        load_base(folder, ModelSettings(dtype="float32")).model(ids).logits for folder in (tiny_base, tmp_path / "model")
    )
    assert torch.equal(ours, again)


def test_going_on_without_positions_is_refused(tiny_base: Path) -> None:
    model = load_base(tiny_base, ModelSettings(dtype="float32")).model
    with pytest.raises(ValueError, match="positions"):
        model(torch.tensor([[14, 11]]), cache=SharedPrefixCache(CPU, 100))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"hidden_act": "gelu"}, "hidden_act = gelu is not supported"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "only full attention"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_configurations_that_the_layers_do_not_compute_are_refused(
    tiny_base: Path, tmp_path: Path, changes: dict[str, object], match: str
) -> None:
    shutil.copytree(tiny_base, tmp_path / "model")
    edited(tmp_path / "model", **changes)
    with pytest.raises(InputError, match=match):
        load_base(tmp_path / "model", ModelSettings())


def test_heads_are_split_among_the_axes() -> None:
    assert rotary_axes(64) == (8, 12, 12)
    assert rotary_axes(16) == (2, 3, 3)
    with pytest.raises(ValueError, match="multiple of 16"):
        rotary_axes(24)


def edited(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_weights_and_configurations_of_two_kinds_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    ours, plain = tmp_path / "ours", tmp_path / "plain"
    shutil.copytree(tiny_base, ours)
    write_plain_qwen3(plain)
    check_folder(ours)
    check_folder(plain)
    edited(ours, model_type="qwen3")
    with pytest.raises(InputError, match=r"ours: the weights are of a cell_decoder.*config.json says 'qwen3'"):
        check_folder(ours)
    edited(plain, model_type="cell_decoder", rotary_axes=[2, 3, 3], marker_ids=[11, 12], separator_id=10)
    with pytest.raises(InputError, match=r"plain: config.json says cell_decoder, but the weights are of another architecture"):
        check_folder(plain)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"head_dim": 24}, "heads of size 24 cannot be split"),
        ({"rotary_axes": [8, 8]}, "cannot be split"),
        ({"rotary_axes": None}, "cannot be split"),
    ],
)
def test_heads_that_cannot_be_split_are_refused(tiny_base: Path, tmp_path: Path, changes: dict[str, object], match: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    edited(folder, **changes)
    with pytest.raises(InputError, match=match):
        check_folder(folder)


def test_another_vocabulary_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    (folder / "codec.json").unlink()
    with pytest.raises(InputError, match=r"needs the grid vocabulary: codec\.json is missing"):
        check_folder(folder)


def test_weights_that_do_not_fill_the_model_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"decoder\.norm\.weight"):
        load_base(folder, ModelSettings())


def test_it_is_the_kind_of_model_that_is_made_and_loaded(tiny_base: Path) -> None:
    assert type(load_base(tiny_base, ModelSettings()).model) is CellDecoderForCausalLM
