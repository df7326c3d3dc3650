"""Base models from folders: what is loaded, and what is refused in one line."""

import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_qwen3 import plain_qwen3
from text_models import write_folder

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model import dtype as dtype_module
from solver.model.build import Shape, new_model, save_model
from solver.model.dtype import fastest_dtype, pick_device, pick_dtype
from solver.model.folder import check_folder
from solver.model.load import load_base, share

CPU = ModelSettings(dtype="float32", device="cpu")


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to break."""
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def refusal(folder: Path, settings: ModelSettings = CPU) -> str:
    with pytest.raises(InputError) as caught:
        load_base(folder, settings)
    text = str(caught.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def test_a_grid_model_is_loaded_frozen_and_quietly(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu", context=100_000))
    assert base.codec.name == "grid-1"
    assert base.context == 32768  # the model's own
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_loading_gives_the_weights_that_were_saved(tiny_base: Path) -> None:
    ids = torch.arange(10)[None]
    expected = new_model(Shape(hidden=32, layers=2, heads=2, ffn=64)).eval()
    assert torch.equal(load_base(tiny_base, CPU).model(ids).logits, expected(ids).logits)


def test_dtype_auto_measures_and_explicit_ones_are_kept(tiny_base: Path) -> None:
    cpu = torch.device("cpu")
    assert pick_dtype(ModelSettings(), cpu) is fastest_dtype(cpu)
    assert fastest_dtype(cpu) in (torch.float32, torch.bfloat16)
    base = load_base(tiny_base, ModelSettings(dtype="bfloat16"))
    assert base.dtype is torch.bfloat16
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}


def test_bf16_has_to_be_faster_by_the_clock_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock a busy machine once took bf16, which is 50 times slower on a CPU without units for it."""
    clocks: list[object] = []
    for seconds, expected in ((1.1, torch.float32), (1.3, torch.bfloat16)):
        in_single = {torch.float32: seconds, torch.bfloat16: 1.0}
        monkeypatch.setattr(
            dtype_module, "matmul_seconds", lambda dtype, _, clock, by=in_single: clocks.append(clock) or by[dtype]
        )
        fastest_dtype.cache_clear()
        assert fastest_dtype(torch.device("cpu")) is expected
    fastest_dtype.cache_clear()
    assert clocks == [time.process_time] * 4


@pytest.mark.parametrize("name", ["tpu", "mps", "cuda:97"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"model\.device"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_devices_that_torch_cannot_use_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as with a driver that is too old for torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"model\.device: '.*' asked for, but torch cannot use .* solver doctor says why"):
        pick_device(name)
    assert pick_device("auto").type == "cpu"


def test_missing_folder(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "nowhere")


def test_folder_without_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "nonsense"}', "\udcff"])
def test_unreadable_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert name in refusal(folder)
    (folder / name).unlink()
    assert "no weights" in refusal(folder)


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "cannot load the model" in refusal(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}))
    assert "do not fit" in refusal(folder)


@pytest.mark.parametrize("kind", ["grid", "text"])
@pytest.mark.parametrize("weights", [True, False])
def test_a_byte_order_mark_changes_nothing(tiny_base: Path, tmp_path: Path, kind: str, weights: bool) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    if kind == "grid":
        shutil.copytree(tiny_base, plain)
    else:
        write_folder(plain, "llama", tied=True)
    shutil.copytree(plain, marked)
    for file in marked.glob("co*.json"):  # config.json, codec.json
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    one, other = (load_base(folder, CPU, weights) for folder in (plain, marked))
    assert (one.codec, one.context, one.parameters) == (other.codec, other.context, other.parameters)
    assert type(one.model) is type(other.model)
    assert one.model.config.to_diff_dict() == other.model.config.to_diff_dict()


def test_another_codec_version_names_both(folder: Path) -> None:
    (folder / "codec.json").write_text('{"codec": "grid-999"}')
    text = refusal(folder)
    assert "grid-999" in text
    assert "grid-1" in text
    (folder / "codec.json").write_text("[]")
    assert "does not name a codec" in refusal(folder)


def test_grid_marker_on_another_vocabulary(folder: Path) -> None:
    from transformers import Qwen3ForCausalLM

    config = plain_qwen3().config
    config.vocab_size = 40
    Qwen3ForCausalLM(config).save_pretrained(folder)
    text = refusal(folder)
    assert "wrong vocabulary" in text
    assert "16" in text
    assert "40" in text


def test_a_wrong_vocabulary_is_known_before_anything_is_loaded(plain_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_base, tmp_path / "model"))
    check_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))
    with pytest.raises(InputError, match=r"codec\.json asks for 16 tokens, config\.json has 40"):
        check_folder(folder)
    (folder / "codec.json").unlink()  # any other model may have any number
    check_folder(folder)


@pytest.mark.slow
def test_a_worker_is_offline_before_it_imports_the_hub() -> None:
    code = """
from pathlib import Path
from solver.config import Settings
from solver.errors import InputError
from solver.worker.main import WorkerConfig, load
try:
    load(WorkerConfig(Settings(), Path("/nowhere"), Path("/nowhere")))
except InputError:
    from huggingface_hub import constants
    print(constants.HF_HUB_OFFLINE)
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def text_tokenizer(folder: Path, words: list[str]) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d\d|\n|\w+:|.") if "00" in words else Regex(r"\n|\w+:|."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="?").save_pretrained(folder)


def test_other_folders_go_through_the_text_codec(plain_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_base, tmp_path / "model"))
    (folder / "codec.json").unlink()
    text_tokenizer(folder, [*"0123456789", "\n", "?", "</s>", "Input:", "Output:"])
    base = load_base(folder, CPU)
    assert base.codec.name == "text-1"
    grid = np.array([[1, 2], [3, 0]], np.uint8)
    assert (base.codec.decode_answer(base.codec.encode_answer(grid)) == grid).all()
    text_tokenizer(folder, [*"01234567", "\n", "?", "</s>"])
    assert "wrong vocabulary" in refusal(folder)


def test_sharing_replaces_modules_but_not_tensors(tiny_base: Path) -> None:
    model = load_base(tiny_base, CPU).model
    other = share(model)
    pairs = zip(model.named_parameters(), other.named_parameters(), strict=True)
    assert all(name == twin and value is same for (name, value), (twin, same) in pairs)
    other.set_submodule("decoder.layers.0.mlp", torch.nn.Identity())
    assert not isinstance(model.get_decoder().layers[0].mlp, torch.nn.Identity)


def test_nf4_on_the_cpu(tmp_path: Path) -> None:
    save_model(new_model(Shape(hidden=64, layers=1, heads=1, ffn=128)), tmp_path / "m", torch.float32)
    base = load_base(tmp_path / "m", ModelSettings(dtype="float32", quantization="nf4"))
    assert base.quantized
    assert base.model.get_decoder().layers[0].mlp.up_proj.weight.dtype is torch.uint8
    ids = torch.arange(10)[None]
    exact = load_base(tmp_path / "m", CPU).model(ids).logits
    rounded = base.model(ids).logits
    assert 0 < (rounded - exact).abs().max() < exact.abs().max()
    twin = share(base.model)
    assert twin.get_decoder().layers[0].mlp.up_proj.weight is base.model.get_decoder().layers[0].mlp.up_proj.weight
    assert torch.equal(twin(ids).logits, rounded)


def test_a_description_has_shapes_and_no_weights(tiny_base: Path) -> None:
    whole, described = load_base(tiny_base, CPU), load_base(tiny_base, CPU, weights=False)
    assert {p.device.type for p in described.model.parameters()} == {"meta"}
    assert [(name, p.shape) for name, p in described.model.named_parameters()] == [
        (name, p.shape) for name, p in whole.model.named_parameters()
    ]
    assert described.model.config.to_dict() == whole.model.config.to_dict()
    names = ("device", "dtype", "path", "context", "quantized", "parameters")
    assert [getattr(described, name) for name in names] == [getattr(whole, name) for name in names]
    assert described.codec.name == whole.codec.name
    gone = weakref.ref(described.with_weights())
    assert gone() is None  # what nobody uses is not kept
    loaded = described.with_weights()
    assert described.with_weights() is loaded
    assert loaded.with_weights() is loaded
    ids = torch.arange(10)[None]
    assert torch.equal(loaded.model(ids).logits, whole.model(ids).logits)
    with pytest.raises(InputError, match="no such model folder"):
        load_base(tiny_base / "nowhere", CPU, weights=False)
