"""`.ci/gpu/train.sh` and `.ci/gpu/pack.sh`, tried on a CPU with a small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from solver.host import commit
from solver.pretrain.checkpoint import load_model, read_state

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / ".ci" / "gpu"
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


def train(out: Path, **settings: str) -> str:
    """What the script printed."""
    folders = {"OUT": str(out), "WORK": str(out.with_suffix(".work")), "KEEP": str(out.with_name("kept"))}
    environment = os.environ | SMALL | folders | settings
    command = ["bash", str(SCRIPTS / "train.sh")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_pack(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPTS / "pack.sh"), *arguments]
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
    assert {file.name for file in (folder / "checkpoint").iterdir()} == {
        "state.json",
        "metrics.jsonl",
        "weights-02.safetensors",
        "optimizer-00.safetensors",
    }
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


# Stands in for Python: its training leaves a checkpoint or, with EARLY, has the script stopped before there is one
TRAINING = r"""#!/usr/bin/env bash
[ "$3" = pretrain ] || exit 1
: >"$WORK/metrics.jsonl"
if [ -n "$EARLY" ]; then kill -TERM $PPID; sleep 1; exit 143; fi
mkdir "$WORK/step-2" && ln -s step-2 "$WORK/latest"
echo new | tee "$WORK"/step-2/{state.json,weights-00.safetensors,model.safetensors} >/dev/null
"""


@pytest.mark.parametrize("early", ["", "1"])
def test_the_old_checkpoint_stays_until_there_is_a_new_one(early: str, tmp_path: Path) -> None:
    python, out = tmp_path / "python", tmp_path / "out"
    python.write_text(TRAINING)
    python.chmod(0o755)
    out.mkdir()
    before = {"state.json": "old", "weights-00.safetensors": "old", "weights-01.safetensors": "old", "held_out.jsonl": "kept"}
    for name, text in before.items():
        (out / name).write_text(text)
    settings = {"PYTHON": str(python), "DEVICE": "cpu", "EARLY": early, "QUERIES": "0", "BUDGETS": ""}
    settings |= {"OUT": str(out), "RESUME": str(out), "WORK": str(tmp_path / "work"), "KEEP": str(tmp_path / "kept")}
    command = ["bash", str(SCRIPTS / "train.sh")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    after = {path.name: path.read_text().strip() for path in out.iterdir()}
    if early:
        assert done.returncode == 143
        assert "stopped before there was a checkpoint" in done.stderr
        assert after == before
    else:
        assert done.returncode == 0, done.stderr
        assert after == {"state.json": "new", "weights-00.safetensors": "new", "held_out.jsonl": "kept", "metrics.jsonl": ""}


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "told"),
    [
        ([], {"MAX_MIB": "1"}, 1, "too large to copy"),
        (["missing"], {}, 2, "missing: no checkpoint"),
        ([], {"CORPUS": "/nowhere"}, 2, "/nowhere: no such folder"),
        ([], {"PACKAGES": "trl"}, 2, "trl: no pin in requirements/"),
    ],
)
def test_unusable_packs_are_refused(arguments: list[str], settings: dict[str, str], code: int, told: str, tmp_path: Path) -> None:
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
def test_calls_add_up_to_one_training(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = train(first, PRESET="tiny", BUDGETS="0")
    assert f"RESUME={first}" in said
    assert make_pack(str(tmp_path / "pack"), str(first)).returncode == 0
    said = train(second, PACK=str(tmp_path / "pack"), BUDGETS="")
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
