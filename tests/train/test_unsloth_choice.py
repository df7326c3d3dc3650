"""unsloth without a CUDA device: when it is chosen, what is passed to it, and what becomes of it when it fails."""

from __future__ import annotations

import ast
import importlib.util
import logging
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trainers import sequences
from text_models import random_model, write_folder

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.load import Base, load_base
from solver.model.lora import read_shape, target_names
from solver.train import registry, unsloth
from solver.train.base import TrainerState
from solver.train.lora import LoraTrainer
from solver.train.peft import PeftTrainer
from solver.train.registry import choose_trainer, lora_trainer, make_trainer
from solver.train.subprocess_trainer import StartError
from solver.train.unsloth import FAMILIES, UnslothTrainer, environment, refusal
from solver.train.unsloth_process import adapter_arguments, checkpointing, model_arguments
from solver.types import NEVER, FitJob, TokenSequence

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
SETTINGS = TrainSettings(trainer="unsloth", rank=4, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=128)
FP32 = ModelSettings(dtype="float32", device="cpu")


@pytest.fixture
def base(plain_base: Path) -> Base:
    return load_base(plain_base, FP32)


# --- what is passed, against the sources of the package, which is installed beside the environment and never imported here


def package(name: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path(sys.prefix) / "reference" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not installed")
    return folder


class Source:
    """A module that is read, not imported."""

    def __init__(self, file: Path) -> None:
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    def function(self, name: str, owner: str | None = None) -> ast.FunctionDef:
        """A function, or the method of a class."""
        body = self.tree.body
        if owner is not None:
            body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == owner).body
        return next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)

    def code(self, name: str, owner: str | None = None) -> str:
        """Its text, spaces made one."""
        return " ".join((ast.get_source_segment(self.text, self.function(name, owner)) or "").split())


def parameters(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    return {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}


@pytest.fixture(scope="module")
def loader() -> Source:
    return Source(package("unsloth") / "models" / "loader.py")


@pytest.fixture(scope="module")
def llama() -> Source:
    return Source(package("unsloth") / "models" / "llama.py")


def test_the_package_that_is_read_is_the_one_that_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    pins = dict(need.split("==") for need in project["project"]["optional-dependencies"]["gpu"] if "==" in need)
    for name in ("unsloth", "unsloth_zoo"):
        version = pins[name]
        assert (package(name).parent / f"{name}-{version}.dist-info" / "METADATA").is_file()


def test_the_model_is_asked_for_with_arguments_that_exist(loader: Source, tmp_path: Path) -> None:
    passed = model_arguments(tmp_path, FP32, SETTINGS, tmp_path)
    taken = parameters(loader.function("from_pretrained", "FastLanguageModel"))
    assert loader.function("from_pretrained", "FastLanguageModel").args.kwarg is not None
    assert passed.keys() - taken == {"local_files_only", "tokenizer_name"}
    code = loader.code("from_pretrained", "FastLanguageModel")
    assert 'kwargs.get("local_files_only", False)' in code
    assert "_resolve_checkpoint_tokenizer_name(old_model_name, kwargs)" in code
    tools = Source(package("unsloth") / "models" / "loader_utils.py")
    assert 'kwargs.pop("tokenizer_name", None)' in tools.code("_resolve_checkpoint_tokenizer_name")


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_asked_for_with_arguments_that_exist(loader: Source, llama: Source, family: str) -> None:
    names = target_names(random_model(family, tied=False, vocabulary=32))
    passed = adapter_arguments(SETTINGS, names)
    taken = parameters(llama.function("get_peft_model", "FastLlamaModel"))
    assert "model" in taken
    assert passed.keys() <= taken
    assert "FastLlamaModel.get_peft_model(model, *args, **kwargs)" in loader.code("get_peft_model", "FastLanguageModel")
    assert {"model", "use_gradient_checkpointing"} == parameters(loader.function("for_training", "FastLanguageModel"))
    accepted = llama.code("get_peft_model", "FastLlamaModel").partition("accepted_modules = frozenset(")[2].partition(")")[0]
    assert len(names) == 7
    assert set(names) <= set(re.findall(r'"(\w+)"', accepted))
    assert type(passed["r"]) is int
    assert type(passed["use_rslora"]) is bool


def test_the_kinds_of_checkpointing_exist() -> None:
    training = Source(package("unsloth_zoo") / "training_utils.py").code("prepare_model_for_training")
    assert 'use_gradient_checkpointing in (True, False, "unsloth",)' in training
    assert checkpointing(SETTINGS) is False
    assert checkpointing(SETTINGS.model_copy(update={"checkpointing": True})) == "unsloth"


def test_the_families_have_kernels(loader: Source, llama: Source) -> None:
    dispatch, patching = loader.code("from_pretrained", "FastLanguageModel"), llama.code("patch_peft_model", "FastLlamaModel")
    for family in FAMILIES:
        assert f'model_type == "{family}"' in dispatch
        assert f'model_type == "{family}"' in patching


def test_the_switches_are_read() -> None:
    read = "".join(
        (package(name) / file).read_text(encoding="utf-8")
        for name, file in (("unsloth", "models/_utils.py"), ("unsloth_zoo", "compiler.py"))
    )
    for switch in ("UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_COMPILE_LOCATION", "TRANSFORMERS_OFFLINE", "HF_HUB_OFFLINE"):
        assert f'"{switch}"' in read, switch


def test_what_is_guarded_against_is_still_there(llama: Source) -> None:
    forward = llama.code("LlamaModel_fast_forward")
    assert "input_ids = input_ids[:, : self.max_seq_length]" in forward
    assert "use_reentrant = True" in forward
    assert "equals_eos" in (package("unsloth_zoo") / "pad_token.py").read_text(encoding="utf-8")


def test_nothing_of_it_is_imported() -> None:
    assert not {"unsloth", "unsloth_zoo"} & sys.modules.keys()


# --- when it is chosen


def test_reasons_against_it_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsloth, "find_spec", lambda name: object())
    assert refusal(CPU, "qwen3") == "it needs a CUDA device"
    assert "models of the kind gemma" in refusal(CUDA, "gemma")
    for family in FAMILIES:
        assert refusal(CUDA, family) == ""
    assert lora_trainer(CUDA, "llama")[0] == "unsloth"
    monkeypatch.setattr(unsloth, "find_spec", lambda name: None)
    assert 'pip install "solver[gpu]"' in refusal(CUDA, "qwen3")
    name, why = lora_trainer(CUDA, "llama")
    assert name == "peft"
    assert "not installed" in why
    assert lora_trainer(CUDA, "qwen3", grid=True)[0] == lora_trainer(CUDA, "llama", stack=4)[0] == "lora"


def test_asked_for_by_name_where_it_cannot_be_it_is_refused(base: Base, tmp_path: Path) -> None:
    assert choose_trainer(base, SETTINGS) == ("unsloth", "set by train.trainer")
    with pytest.raises(InputError, match=r"^train\.trainer=unsloth: it needs a CUDA device; solver doctor says"):
        make_trainer(base, SETTINGS, tmp_path)


def test_one_device_and_folders_of_its_own(tmp_path: Path) -> None:
    first, second = (environment(torch.device("cuda", 1), tmp_path, {"CUDA_VISIBLE_DEVICES": "4,7"}) for _ in range(2))
    assert first["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment(CUDA, tmp_path, {})["CUDA_VISIBLE_DEVICES"] == "0"
    assert first["UNSLOTH_COMPILE_LOCATION"] != second["UNSLOTH_COMPILE_LOCATION"]
    assert Path(first["UNSLOTH_COMPILE_LOCATION"]).parent == tmp_path


# --- when it fails


def test_auto_takes_another_if_it_does_not_start(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> Any:
        raise StartError("ImportError: no triton")

    monkeypatch.setattr(registry, "lora_trainer", lambda device, kind, grid, stack: ("unsloth", "it is there"))
    monkeypatch.setitem(registry.TRAINERS, "unsloth", broken)
    auto = SETTINGS.model_copy(update={"trainer": "auto"})
    state = TrainerState()
    assert choose_trainer(base, auto, state)[0] == "unsloth"
    assert isinstance(make_trainer(base, auto, tmp_path, state), PeftTrainer)
    (warning,) = (text for text in map(logging.LogRecord.getMessage, caplog.records) if text.startswith("trainer: "))
    assert warning.startswith("trainer: peft: ")
    name, why = choose_trainer(base, auto, state)
    assert name == "peft"
    assert why in warning
    assert "unsloth did not start: ImportError: no triton" in why
    with pytest.raises(StartError, match="does not start: ImportError: no triton"):
        make_trainer(base, SETTINGS, tmp_path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process, with another trainer in it."""
    monkeypatch.setattr(unsloth, "refusal", lambda device, kind: "")
    monkeypatch.setattr(unsloth, "_MAKER", "trainer_makers:fatal")
    monkeypatch.setattr(unsloth, "environment", lambda device, scratch: {"PYTHONPATH": str(Path(__file__).parent)})
    return monkeypatch


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The real process with a library in place of unsloth; gives what is added to its environment."""
    added = {"PYTHONPATH": str(Path(__file__).parent / "stand_in"), "OMP_NUM_THREADS": "1"}
    real = unsloth.environment
    monkeypatch.setattr(unsloth, "refusal", lambda device, kind: "")
    monkeypatch.setattr(unsloth, "environment", lambda device, scratch: real(device, scratch) | added)
    return added


@pytest.mark.slow
@pytest.mark.parametrize("family", [None, "llama"])
def test_its_process_fits_as_the_lora_trainer_does(
    family: str | None, plain_base: Path, tmp_path: Path, library: dict[str, str]
) -> None:
    folder = plain_base
    if family is not None:
        folder = tmp_path / "model"
        write_folder(folder, family, tied=False)
    base = load_base(folder, FP32)
    settings = SETTINGS.model_copy(update={"checkpointing": True})
    jobs = [job("a"), FitJob("b", sequences(1), 3, seed=1), FitJob("a again", sequences(0), 2)]
    mine = list(LoraTrainer(base, settings, tmp_path / "lora").fit(jobs, NEVER))
    theirs = list(UnslothTrainer(base, settings, tmp_path / "unsloth").fit(jobs, NEVER))
    for left, right in zip(mine, theirs, strict=True):
        assert (right.status, right.reason, right.steps, right.tokens) == (left.status, left.reason, left.steps, left.tokens)
        assert right.first_loss == pytest.approx(left.first_loss, rel=1e-4)
        assert right.final_loss == pytest.approx(left.final_loss, rel=1e-3)
        assert right.adapter is not None
        assert right.adapter.path.parent == tmp_path / "unsloth"
        assert read_shape(right.adapter.path).rank == settings.rank
    long = TokenSequence(np.zeros(base.context + 1, np.int32), np.ones(base.context + 1, np.float32))
    (refused,) = UnslothTrainer(base, settings, tmp_path / "unsloth").fit([FitJob("long", (long,), 1)], NEVER)
    assert "exceeds the context" in refused.reason


@pytest.mark.slow
def test_a_library_that_would_cut_sequences_does_not_start(base: Base, tmp_path: Path, library: dict[str, str]) -> None:
    library["STAND_IN_LIMIT"] = "100"
    with pytest.raises(StartError, match="would cut sequences at 100 tokens, the context is 8192"):
        UnslothTrainer(base, SETTINGS, tmp_path)


def job(name: str) -> FitJob:
    return FitJob(name, sequences(0), 2)


def test_a_lost_process_is_replaced_once_then_peft_goes_on(
    base: Base, tmp_path: Path, stand_in: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = UnslothTrainer(base, SETTINGS, tmp_path)
    first = trainer._process
    fits = list(trainer.fit([job("a"), job("crash"), job("b")], NEVER))
    assert [(fit.adapter_id, fit.status) for fit in fits] == [("a", "complete"), ("crash", "failed"), ("b", "failed")]
    assert fits[1].reason == "the process of unsloth: it ended with exit code 9"
    assert not first.alive
    assert [fit.adapter for fit in trainer.fit([job("c")], NEVER)] == [None]  # of the stand-in
    assert trainer._process is not first
    assert "has been started again" in caplog.text
    list(trainer.fit([job("crash")], NEVER))
    (fit,) = trainer.fit([job("d")], NEVER)
    assert fit.adapter is not None
    assert (fit.steps, fit.status) == (2, "complete")
    assert "peft in place of unsloth: its process was lost twice" in caplog.text


def test_trainers_of_a_worker_share_its_process(base: Base, tmp_path: Path, stand_in: pytest.MonkeyPatch) -> None:
    state = TrainerState()
    wide = UnslothTrainer(base, SETTINGS, tmp_path, state)
    narrow = UnslothTrainer(base, SETTINGS.model_copy(update={"batch_tokens": 64}), tmp_path, state)
    assert wide._process is narrow._process
    assert [fit.status for fit in narrow.fit([job("a")], NEVER)] == ["complete"]
    assert wide._process.settings.batch_tokens == 64


def test_what_its_process_has_held_is_known(base: Base, tmp_path: Path, stand_in: pytest.MonkeyPatch) -> None:
    state = TrainerState()
    assert state.peak_memory == 0
    trainer = UnslothTrainer(base, SETTINGS, tmp_path, state)
    assert state.peak_memory == trainer._process.peak_memory > 1e6


def test_rates_go_by_the_weights_of_the_base(base: Base, tmp_path: Path, stand_in: pytest.MonkeyPatch) -> None:
    trainer = UnslothTrainer(base, SETTINGS.model_copy(update={"lr": None}), tmp_path)
    assert trainer._settings.lr == 2e-3


def test_resting_and_a_process_that_does_not(
    base: Base, tmp_path: Path, stand_in: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.setattr(unsloth, "_MAKER", "trainer_makers:resting")
    trainer = UnslothTrainer(base, SETTINGS, tmp_path)
    trainer.rest()
    trainer.wake()
    assert [fit.status for fit in trainer.fit([job("a")], NEVER)] == ["complete"]
    assert (tmp_path / "notes.txt").read_text().split() == ["rest", "fit"]
    stand_in.setattr(unsloth, "_MAKER", "trainer_makers:stuck")
    stuck = UnslothTrainer(base, SETTINGS, tmp_path)
    stuck.rest()
    assert "gave no memory back and was ended: MemoryError" in caplog.text
    assert not stuck._process.alive
    stuck.rest()  # there is nothing any more that could
    assert [fit.status for fit in stuck.fit([job("b")], NEVER)] == ["complete"]


def test_only_its_stand_in_loads_the_weights_of_a_description(
    plain_base: Path, tmp_path: Path, stand_in: pytest.MonkeyPatch
) -> None:
    described = load_base(plain_base, FP32, weights=False)
    trainer = make_trainer(described, SETTINGS, tmp_path)
    assert [fit.status for fit in trainer.fit([job("a")], NEVER)] == ["complete"]
    for _ in range(2):
        list(trainer.fit([job("crash")], NEVER))
    (fit,) = trainer.fit([job("b")], NEVER)
    assert fit.adapter is not None
    assert trainer._weights is not None  # type: ignore[attr-defined]
    trainer.rest()  # type: ignore[attr-defined]
    assert trainer._weights.resting  # type: ignore[attr-defined]
    trainer.wake()  # type: ignore[attr-defined]
    assert [fit.status for fit in trainer.fit([job("c")], NEVER)] == ["complete"]
