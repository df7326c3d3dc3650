"""NF4 weights unpacked into a folder: the same model, made once, whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
import torch
from text_models import write_folder

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model import dequantise
from solver.model.dequantise import RECORD, dequantised_folder
from solver.model.load import Base, load_base

FP32 = ModelSettings(dtype="float32", device="cpu")
NF4 = ModelSettings(dtype="float32", device="cpu", quantization="nf4")


@pytest.fixture
def base(plain_base: Path) -> Base:
    return load_base(plain_base, NF4)


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


@pytest.mark.parametrize("family", [None, "qwen2", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_it_computes_what_the_four_bits_compute(family: str | None, tied: bool, plain_base: Path, tmp_path: Path) -> None:
    folder = plain_base
    if family is not None:
        folder = tmp_path / "model"
        write_folder(folder, family, tied=tied)
    quantised, original = load_base(folder, NF4), load_base(folder, FP32)
    served = load_base(dequantised_folder(quantised, tmp_path / "cache"), FP32)
    ids = torch.arange(12)[None]
    expected, rounded = quantised.model(ids).logits, served.model(ids).logits
    torch.testing.assert_close(rounded, expected, atol=1e-5, rtol=1e-5)
    assert (original.model(ids).logits - expected).abs().max() > 100 * (rounded - expected).abs().max()
    assert served.codec.name == quantised.codec.name
    assert served.parameters == original.parameters
    assert "quantization_config" not in json.loads((served.path / "config.json").read_text())


def test_it_is_made_once(base: Base, tmp_path: Path) -> None:
    folder = dequantised_folder(base, tmp_path)
    before = times(folder)
    assert dequantised_folder(load_base(base.path, NF4, weights=False), tmp_path) == folder  # without loading weights
    assert times(folder) == before
    assert not list(tmp_path.glob(".*"))


def test_it_is_made_in_pieces(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantise, "SHARD", 20_000)
    folder = dequantised_folder(base, tmp_path / "pieces")
    shards = list(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert max(file.stat().st_size for file in shards) < 25_000
    ids = torch.arange(12)[None]
    torch.testing.assert_close(load_base(folder, FP32).model(ids).logits, base.model(ids).logits, atol=1e-5, rtol=1e-5)


def test_another_model_or_dtype_gets_a_folder_of_its_own(base: Base, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base.path, tmp_path / "elsewhere"))
    first = dequantised_folder(base, tmp_path / "cache")
    assert dequantised_folder(load_base(copy, NF4), tmp_path / "cache") == first  # the same model, wherever it lies
    half = load_base(base.path, NF4.model_copy(update={"dtype": "bfloat16"}))
    assert dequantised_folder(half, tmp_path / "cache") != first
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert dequantised_folder(load_base(copy, NF4), tmp_path / "cache") not in (first, copy)


@pytest.mark.parametrize("damage", ["record", "identity", "short", "missing", "not json"])
def test_what_is_not_whole_is_made_again(damage: str, base: Base, tmp_path: Path) -> None:
    folder = dequantised_folder(base, tmp_path)
    record = json.loads((folder / RECORD).read_text())
    shard = next(folder.glob("*.safetensors"))
    match damage:
        case "record":
            (folder / RECORD).unlink()
        case "identity":
            (folder / RECORD).write_text(json.dumps({**record, "from": {**record["from"], "model": "another"}}))
        case "short":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "missing":
            shard.unlink()
        case "not json":
            (folder / RECORD).write_text("[1")
    assert dequantised_folder(base, tmp_path) == folder
    assert json.loads((folder / RECORD).read_text()) == record
    load_base(folder, FP32)


def test_an_interrupted_write_leaves_nothing_to_be_taken_for_it(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dequantise, "SHARD", 1)
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="cannot be written: No space left on device"):
            dequantised_folder(base, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    folder = tmp_path / next(tmp_path.glob("*.lock")).stem
    part = tmp_path / f".{folder.name}.part"  # of a process that was killed
    part.mkdir()
    (part / "model-00001.safetensors").write_bytes(b"half")
    assert dequantised_folder(base, tmp_path) == folder
    assert not part.exists()
    load_base(folder, FP32)


def test_a_disk_without_room_is_said(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantise.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"dequantised weights need 0\.0 GB, and 0\.0 GB are free"):
        dequantised_folder(base, tmp_path)


def test_weights_that_are_whole_already_are_refused(plain_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not quantised"):
        dequantised_folder(load_base(plain_base, FP32), tmp_path)


def _made(path: Path, cache: Path, sent: object) -> None:
    folder = dequantised_folder(load_base(path, NF4), cache)
    sent.put((folder, times(folder), time.monotonic()))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_workers_that_come_together_share_it(base: Base, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    sent = context.Queue()
    processes = [context.Process(target=_made, args=(base.path, tmp_path, sent)) for _ in range(2)]
    for process in processes:
        process.start()
    (first, one, _), (second, other, _) = (sent.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert (first, one) == (second, other)
    assert first.is_dir()
