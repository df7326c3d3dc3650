"""The script of a stay on a borrowed machine, tried on the CPU at a small scale, and the training path of CUDA devices."""

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
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.host import commit
from solver.model.build import Shape, new_model
from solver.model.fused_training import decoder_states
from solver.pretrain.checkpoint import load_model, read_state
from solver.pretrain.fast import compile_decoder, fast_states
from solver.pretrain.loop import batch_losses
from solver.pretrain.sampler import Sampler, SamplerSettings
from solver.pretrain.store import pack

ROOT = Path(__file__).parents[2]
SMALL = {
    "PYTHON": sys.executable,
    "DEVICE": "cpu",
    "MINUTES": "0.2",
    "BATCH_TOKENS": "2048",
    "MAX_TOKENS": "512",
    "WORKERS": "0",
    "QUERIES": "20",
    "TASKS": "1",
    "SHORTEST": "5",
    "OMP_NUM_THREADS": "1",
}


def stay(out: Path, **settings: str) -> str:
    folders = {"OUT": str(out), "WORK": str(out.with_suffix(".work")), "KEEP": str(out.with_name("kept"))}
    environment = os.environ | SMALL | folders | settings
    command = ["bash", str(ROOT / "tests" / "gpu" / "stay.sh")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_pack(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "tests" / "gpu" / "pack.sh"), *arguments]
    environment = os.environ | {"PYTHON": sys.executable, "PACKAGES": ""} | settings
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_pack_holds_the_corpus_and_the_newest_checkpoint(tmp_path: Path) -> None:
    corpora, folder = tmp_path / "corpora", tmp_path / "pack"
    corpora.mkdir()
    (corpora / "mine.json").write_text("{}")
    for steps in ("1", "2"):
        carried = tmp_path / f"carried{steps}"
        carried.mkdir()
        for name in (
            "state.json",
            "metrics.jsonl",
            f"weights-0{steps}.safetensors",
            "optimizer-00.safetensors",
            "model.safetensors",
        ):
            (carried / name).write_text(steps)
        done = make_pack(str(folder), str(carried), CORPUS=str(corpora))
        assert done.returncode == 0, done.stderr
        assert f"PACK={folder}" in done.stdout
    assert (folder / "corpus" / "mine.json").is_file()
    found = {file.name for file in (folder / "checkpoint").iterdir()}
    assert found == {"state.json", "metrics.jsonl", "weights-02.safetensors", "optimizer-00.safetensors"}
    if commit():
        assert (folder / "commit").read_text().strip() == commit()


def test_a_pack_is_made_again_from_its_own_parts(tmp_path: Path) -> None:
    folder, carried = tmp_path / "pack", tmp_path / "carried"
    for made in (folder / "corpus", carried):
        made.mkdir(parents=True)
    (folder / "corpus" / "mine.json").write_text("{}")
    (carried / "state.json").write_text("{}")
    assert make_pack(str(folder), str(carried), CORPUS=str(folder / "corpus")).returncode == 0
    assert make_pack(str(folder), str(folder / "checkpoint"), CORPUS=str(folder / "corpus")).returncode == 0
    assert sorted(path.name for path in folder.rglob("*.json")) == ["mine.json", "state.json"]
    assert make_pack(str(folder)).returncode == 0  # without corpora
    assert not (folder / "corpus").exists()


# in place of Python: a training that leaves a checkpoint, or is told to end before there is one
TRAINING = r"""#!/usr/bin/env bash
[ "$3" = pretrain ] || exit 1
: >"$WORK/metrics.jsonl"
if [ -n "$EARLY" ]; then kill -TERM $PPID; sleep 1; exit 143; fi
mkdir "$WORK/step-2" && ln -s step-2 "$WORK/latest"
echo new | tee "$WORK"/step-2/{state.json,weights-00.safetensors,model.safetensors} >/dev/null
"""


@pytest.mark.parametrize("early", ["", "1"])
def test_what_was_carried_stays_until_there_is_more(early: str, tmp_path: Path) -> None:
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(TRAINING)
    python.chmod(0o755)
    out.mkdir()
    before = {"state.json": "old", "weights-00.safetensors": "old", "weights-01.safetensors": "old", "held_out.jsonl": "kept"}
    for name, text in before.items():
        (out / name).write_text(text)
    settings = {"PYTHON": str(python), "DEVICE": "cpu", "EARLY": early, "QUERIES": "0", "BUDGETS": ""}
    settings |= {"OUT": str(out), "RESUME": str(out), "WORK": str(tmp_path / "work"), "KEEP": str(tmp_path / "kept")}
    command = ["bash", str(ROOT / "tests" / "gpu" / "stay.sh")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    found = {path.name: path.read_text().strip() for path in out.iterdir()}
    if early:
        assert done.returncode == 143
        assert "stopped before there was a checkpoint" in done.stderr
        assert found == before
    else:
        assert done.returncode == 0, done.stderr
        assert found == {"state.json": "new", "weights-00.safetensors": "new", "held_out.jsonl": "kept", "metrics.jsonl": ""}


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "told"),
    [
        ([], {"MOST": "1"}, 1, "too much to carry"),
        (["missing"], {}, 2, "missing: no checkpoint"),
        ([], {"CORPUS": "/nowhere"}, 2, "/nowhere: no such folder"),
        ([], {"PACKAGES": "trl"}, 2, "trl: no pin in requirements/"),
    ],
)
def test_packs_that_are_of_no_use_are_refused(
    arguments: list[str], settings: dict[str, str], code: int, told: str, tmp_path: Path
) -> None:
    done = make_pack(str(tmp_path / "pack"), *arguments, **settings)
    assert done.returncode == code
    assert told in done.stderr


def test_wheels_are_those_that_are_pinned(tmp_path: Path) -> None:
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text('#!/usr/bin/env bash\necho "$*" >>"$LOG"\nmkdir -p "$PACK/wheels.partial"\n')
    python.chmod(0o755)
    folder = tmp_path / "pack"
    settings = {"PYTHON": str(python), "LOG": str(log), "PACK": str(folder)}
    done = make_pack(str(folder), PACKAGES="pydantic unsloth unsloth-zoo trl==1.15.0", **settings)
    assert done.returncode == 0, done.stderr
    assert (folder / "wheels").is_dir()
    pins = (ROOT / "requirements" / "cpu.txt").read_text().split() + (ROOT / "requirements" / "reference.txt").read_text().split()
    named = [pin for pin in pins if pin.startswith(("pydantic==", "unsloth==", "unsloth_zoo=="))]
    assert log.read_text().split()[-4:] == [*named, "trl==1.15.0"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stays_add_up(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = stay(first, PRESET="tiny", BUDGETS="0")
    assert f"RESUME={first}" in said
    assert make_pack(str(tmp_path / "pack"), str(first)).returncode == 0
    said = stay(second, PACK=str(tmp_path / "pack"), BUDGETS="")
    assert f"pack.sh {tmp_path / 'pack'} {second}" in said
    states = [read_state(out) for out in (first, second)]
    assert states[0] is not None
    assert states[1] is not None
    assert states[1]["position"]["steps"] > states[0]["position"]["steps"] > 0
    for out in (first, second):
        assert len(list(out.iterdir())) <= 8
        assert load_model(out).config.hidden_size == 64
    rows = [json.loads(line) for line in (second / "held_out.jsonl").read_text().splitlines()]
    assert [row["trained_tokens"] for row in rows] == [state["position"]["tokens"] for state in states if state]
    assert json.loads((first / "tasks.jsonl").read_text())["budget"] == "0"
    steps = [json.loads(line)["step"] for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_bf16_training_on_cuda_agrees_with_fp32() -> None:
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])
    settings = SamplerSettings(batch_tokens=4096, block_batches=2, max_tokens=512)
    batch = next(Sampler(store, {}, grid_codec(), settings, 0).batches(0, 0))[2]
    model = new_model(Shape(hidden=64, layers=2, heads=2, ffn=192)).cuda()
    device = torch.device("cuda:0")

    def gradients(fast: bool) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        states, piece = fast_states(model) if fast else (decoder_states(model), None)
        total = 0.0
        for loss, _ in batch_losses(states, model.lm_head, batch, piece, device):
            loss.backward()
            total += float(loss)
        return total, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    exact, exact_grads = gradients(fast=False)
    rough, rough_grads = gradients(fast=True)
    assert rough == pytest.approx(exact, rel=0.01)
    for mine, theirs in zip(rough_grads, exact_grads, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 0.1


@pytest.mark.parametrize("config", [Qwen3Config, LlamaConfig])
def test_the_compiled_decoder_makes_no_mask(config: Any, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = AutoModelForCausalLM.from_config(config(vocab_size=16, **sizes))
    ids, places = torch.arange(90).reshape(3, 30) % 16, torch.arange(5, 90, 7)
    expected = decoder_states(model)(ids, places)
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    compile_decoder(model, backend)
    states = decoder_states(model)
    torch.testing.assert_close(states(ids, places), expected)
    for rows, tokens in ((3, 20), (5, 41)):  # other shapes, the same graph
        states(torch.zeros(rows, tokens, dtype=torch.long), torch.arange(9))
    assert len(graphs) == 1
    calls = [node.kwargs for node in graphs[0].graph.nodes if "scaled_dot_product_attention" in str(node.target)]
    assert [(call["attn_mask"], call["is_causal"]) for call in calls] == [(None, True)] * 2
    model.save_pretrained(tmp_path)
    assert '"causal"' not in (tmp_path / "config.json").read_text()


def test_batches_of_a_gpu_hold_little_padding() -> None:
    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks)
    settings = SamplerSettings(batch_tokens=131072, max_tokens=1024)
    batches = Sampler(store, {}, grid_codec(), settings, 0).block(0)
    read, padded = sum(batch.tokens for batch in batches), sum(batch.ids.size for batch in batches)
    assert read / padded > 0.9
    assert max(batch.ids.size for batch in batches) <= 131072
    assert np.mean([batch.ids.size for batch in batches]) > 0.8 * 131072
