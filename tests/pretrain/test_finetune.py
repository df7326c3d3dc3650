"""Fine-tuning of Llama and Qwen folders through the text codec: what is learnt, resumed, merged and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from prompt_decoding import decode_prompt
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks
from solver.arc.task import Pair
from solver.arc.view import TRANSFORMS, View
from solver.cli import app
from solver.codec import Codec, text_codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.load import load_base
from solver.pretrain.checkpoint import load_model
from solver.pretrain.command import PretrainOptions, make_target
from solver.pretrain.loop import LoopSettings, train
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings, parse_sides
from solver.pretrain.store import PairStore, pack
from solver.pretrain.target import PretrainTarget

SIZE: dict[str, float] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SIZE |= {"initializer_range": 0.1}  # of a random head large enough to learn something through
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
SETTINGS = SamplerSettings(batch_tokens=1024, block_batches=2, max_tokens=512)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, as in the tokenizers of Llama 3 and Qwen where nothing is merged."""
    letters = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def make_folder(folder: Path, family: str, tied: bool, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    config, model = FAMILIES[family]
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    made = model(config(vocab_size=len(tokenizer), max_position_embeddings=1024, tie_word_embeddings=tied, **SIZE))
    made.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("llama") / "model", "llama", tied=False)


@pytest.fixture(scope="module")
def store() -> PairStore:
    return pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])


class SteppedSampler(Sampler):
    """A sampler that is also the clock: one second passes with every batch."""

    now = 0.0

    def batches(self, block: int, batch: int) -> object:  # type: ignore[override]
        for item in super().batches(block, batch):
            yield item
            self.now += 1


def fit(
    target: PretrainTarget, store: PairStore, out: Path, steps: int, resume: Path | None = None, lr: float = 1e-2
) -> list[str]:
    sampler = SteppedSampler(store, {}, target.codec, SETTINGS, 0)
    validation: list[Batch] = [next(Sampler(store, {}, target.codec, SETTINGS, 9).batches(0, 0))[2]]
    loop = LoopSettings(minutes=steps / 60, warmup_steps=1, cooldown=0, checkpoint_minutes=99, validate_minutes=99, lr=lr)
    lines: list[str] = []
    train(target, sampler, validation, loop, out, resume, 0, lines.append, lambda: sampler.now)
    return lines


def held_loss(lines: list[str]) -> float:
    return float(lines[-1].split("held-out loss ")[1].split(",")[0]) if "held-out" in lines[-1] else held_loss(lines[:-1])


def make(init: Path, rank: int | None, out: Path, resume: Path | None = None) -> PretrainTarget:
    return make_target(PretrainOptions(out, None, LoopSettings(1), resume=resume, init=init, lora_rank=rank))


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)])
@pytest.mark.parametrize("rank", [None, 8])
def test_a_model_learns_and_its_folder_is_a_model_again(
    family: str, tied: bool, rank: int | None, store: PairStore, tmp_path: Path
) -> None:
    init = make_folder(tmp_path / "init", family, tied, torch.bfloat16)
    out = tmp_path / "out"
    before = held_loss(fit(make(init, rank, out), store, out, 0))
    target = make(init, rank, out)
    after = held_loss(fit(target, store, out, 12, lr=1e-2 if rank is None else 2e-3))
    assert after < before - (1.0 if rank is None else 0.01)  # a random head that stays as it is leaves little to learn
    folder = out / ("latest" if rank is None else "model")
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).dtype == torch.bfloat16
    base = load_base(folder, ModelSettings(dtype="float32"))
    assert base.codec == target.codec
    ids = torch.from_numpy(base.codec.sequence(load_tasks("arc1:training").tasks[0], 512).ids.astype(np.int64))[None]
    with torch.no_grad():
        gap = (base.model(ids).logits - target.model.eval()(ids).logits).abs().max()
        moved = (base.model(ids).logits - load_base(init, ModelSettings(dtype="float32")).model(ids).logits).abs().max()
    assert gap < 0.1 * moved  # bf16 rounds the weights


@pytest.mark.parametrize("rank", [None, 4])
def test_resuming_equals_never_having_stopped(rank: int | None, llama: Path, store: PairStore, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(make(llama, rank, whole), store, whole, 8)
    fit(make(llama, rank, parts), store, parts, 4)
    fit(make(llama, rank, parts, parts / "latest"), store, parts, 4, parts / "latest")
    states = [json.loads((out / "latest" / "state.json").read_text()) for out in (whole, parts)]
    assert states[0]["position"] | {"seconds": 0} == states[1]["position"] | {"seconds": 0}
    name = "weights-00.safetensors" if rank is None else "adapter/adapter_model.safetensors"
    one, other = (load_file(out / "latest" / name) for out in (whole, parts))
    assert one.keys() == other.keys()
    for key in one:  # weights and data position are exact, moments are kept in bf16
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=4e-3)


def test_adapters_are_read_by_peft(llama: Path, store: PairStore, tmp_path: Path) -> None:
    from peft import PeftModel

    target = make(llama, 4, tmp_path)
    fit(target, store, tmp_path, 4)
    dtype = target.model.dtype  # 16 bits where the processor has units for them
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=dtype)
    theirs = PeftModel.from_pretrained(base, tmp_path / "latest" / "adapter")
    ids = torch.arange(3, 60)[None]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    with torch.no_grad():
        ours = target.model.eval()(ids).logits
        distance = (theirs(ids).logits - ours).abs().max()
        torch.testing.assert_close(theirs(ids).logits, ours, atol=tolerance, rtol=tolerance)
        with theirs.disable_adapter():  # the adapter is what makes the difference
            assert (theirs(ids).logits - ours).abs().max() > 2 * distance


def test_checkpoints_of_other_models_and_kinds_are_refused_by_name(llama: Path, store: PairStore, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", "llama", tied=False, seed=1)
    qwen = make_folder(tmp_path / "qwen", "qwen3", tied=False)
    fit(make(llama, None, tmp_path / "full"), store, tmp_path / "full", 1)
    fit(make(llama, 4, tmp_path / "lora"), store, tmp_path / "lora", 1)
    full, lora = (tmp_path / kind / "latest" for kind in ("full", "lora"))
    for target, resume, wanted in (
        (make(llama, None, tmp_path), lora, "kind 'lora', this training 'full'"),
        (make(other, None, tmp_path), full, "fine-tuned from model"),
        (make(qwen, None, tmp_path), full, "architecture 'llama', this training 'qwen3'"),
    ):
        with pytest.raises(InputError, match=wanted) as caught:
            fit(target, store, tmp_path / "refused", 1, resume)
        assert str(resume) in str(caught.value)
    with pytest.raises(InputError, match="rank 4"):
        fit(make(llama, 8, tmp_path), store, tmp_path / "refused", 1, lora)
    with pytest.raises(InputError, match="--init"):
        load_model(full)
    with pytest.raises(InputError, match="no such checkpoint"):
        make(llama, None, tmp_path, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"state\.json"):
        make(llama, None, tmp_path, llama)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--lora"], "--init"),
        (["--init", "nowhere"], "nowhere: no such model folder"),
        (["--init", "nowhere", "--preset", "tiny"], "--preset"),
        (["--resume", "nowhere"], "nowhere: no such checkpoint"),
        (["--transforms", "both,inputs"], "unknown side 'inputs'"),
        (["--preset", "huge"], "unknown preset 'huge'"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(options: list[str], wanted: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pretrain", "--out", str(tmp_path / "out"), "--minutes", "1", *options])
    assert done.exit_code == 2
    assert wanted in done.output
    assert len(done.output.strip().splitlines()) == 1


def sides_seen(sides: str, store: PairStore) -> list[tuple[bool, bool]]:
    """Of sequences: whether all inputs, and all outputs, of the family are as they are in the store."""
    settings = SamplerSettings(max_tokens=512, sides=parse_sides(sides), output_transform=0.0)
    codec = make_codec()
    sampler = Sampler(store, {}, codec, settings, 0)
    inputs = {store.pair(i)[0].tobytes() + bytes(store.pair(i)[0].shape) for i in range(len(store.pairs))}
    outputs = {store.pair(i)[1].tobytes() + bytes(store.pair(i)[1].shape) for i in range(len(store.pairs))}
    seen = []
    rng = np.random.default_rng(0)
    for _ in range(30):
        ids = sampler.draw(rng).sequence.ids
        # the last pair is shown with its answer: cut after the last output marker to read the others
        end = max(i for i in range(len(ids)) if tuple(ids[i : i + len(codec.output_marker)]) == codec.output_marker)
        pairs, _ = decode_prompt(codec, ids[: end + len(codec.output_marker)])
        shown = all(p.input.tobytes() + bytes(p.input.shape) in inputs for p in pairs)
        seen.append((shown, all(p.output.tobytes() + bytes(p.output.shape) in outputs for p in pairs)))  # type: ignore[union-attr]
    return seen


def make_codec() -> Codec:
    return text_codec(byte_tokenizer())


def test_views_change_the_sides_they_are_asked_to(store: PairStore) -> None:
    assert all(outputs for _, outputs in sides_seen("input", store))
    assert all(inputs for inputs, _ in sides_seen("output", store))
    assert not all(inputs for inputs, _ in sides_seen("input", store))
    assert not all(outputs for _, outputs in sides_seen("output", store))
    both = sides_seen("both", store)
    assert sum(inputs or outputs for inputs, outputs in both) < 10  # symmetric families apart
    mixed = sides_seen("both,input,output", store)
    assert any(i and not o for i, o in mixed)
    assert any(o and not i for i, o in mixed)


def test_a_view_of_one_side_is_the_same_for_all_pairs() -> None:
    """Inputs alone: undoing one and the same view must bring back every pair of the family."""
    rng = np.random.default_rng(1)
    grids = [rng.integers(0, 10, (3, 5)).astype(np.uint8) for _ in range(4)]
    family = pack([("f", "s", [Pair(g, g[:2, :2]) for g in grids])])
    codec = make_codec()
    settings = SamplerSettings(max_tokens=512, min_pairs=4, max_pairs=4, sides=("input",), output_transform=0.0, permute_all=1.0)
    ids = Sampler(family, {}, codec, settings, 0).draw(np.random.default_rng(5)).sequence.ids
    end = max(i for i in range(len(ids)) if tuple(ids[i : i + len(codec.output_marker)]) == codec.output_marker)
    pairs, last = decode_prompt(codec, ids[: end + len(codec.output_marker)])
    by_output = {g[:2, :2].tobytes(): g for g in grids}
    originals = [by_output[p.output.tobytes()] for p in pairs]  # type: ignore[union-attr]
    fitting = []
    for transform in TRANSFORMS:
        colours: dict[int, set[int]] = {}
        for pair, original in zip(pairs, originals, strict=True):
            turned = View(transform).apply_grid(original)
            if turned.shape != pair.input.shape:
                break
            for a, b in zip(turned.reshape(-1), pair.input.reshape(-1), strict=True):
                colours.setdefault(int(a), set()).add(int(b))
        else:
            fitting += [transform] if all(len(found) == 1 for found in colours.values()) else []
    assert len(fitting) == 1
    assert last.size == 15


@pytest.mark.slow
def test_the_command_fine_tunes_and_the_result_solves(tmp_path: Path) -> None:
    init = make_folder(tmp_path / "init", "llama", tied=False)
    out = tmp_path / "out"
    command = ["pretrain", "--out", str(out), "--minutes", "0.05", "--init", str(init), "--lora", "--rank", "4"]
    first = CliRunner().invoke(app, [*command, "--transforms", "both,output", "--max-tokens", "512"])
    assert first.exit_code == 0, first.output
    assert "lora: " in first.output
    second = CliRunner().invoke(app, [*command, "--resume", str(out / "latest")])
    assert second.exit_code == 0, second.output
    task = tmp_path / "task.json"
    task.write_text(json.dumps(load_tasks("arc1:training").tasks[0].to_json()))
    command = [sys.executable, "-m", "solver", "run", str(task), "--out", str(tmp_path / "run"), "--budget", "90s"]
    settings = ["train.steps=1", "infer.views.count=1", "budget.policy=fixed"]
    command += ["--model", str(out / "model"), *(part for setting in settings for part in ("--set", setting))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["done"] == 1
