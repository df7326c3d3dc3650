"""`solver pretrain` from corpus files to a model folder, by the command line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks
from solver.arc.grid import GridJson, grid_json
from solver.arc.task import Pair
from solver.cli import app
from solver.codec import grid_codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.build import new_model
from solver.model.load import load_base
from solver.pretrain import command
from solver.pretrain.checkpoint import Position, save_checkpoint
from solver.pretrain.command import MIXTURE, PRESETS, PretrainOptions, load_store, pretrain, validation_batches
from solver.pretrain.corpora import LM_FAMILY
from solver.pretrain.guard import Guard
from solver.pretrain.loop import LoopSettings
from solver.pretrain.sampler import Sampler, SamplerSettings, parse_mixture
from solver.pretrain.store import pack
from solver.pretrain.target import GridTarget, PretrainTarget


def recolouring(seed: int) -> list[dict[str, GridJson]]:
    """Pairs of one rule: every colour is replaced by another."""
    rng = np.random.default_rng(seed)
    table = rng.permutation(10).astype(np.uint8)
    grids = [rng.integers(0, 10, (3, 4)).astype(np.uint8) for _ in range(8)]
    return [{"input": grid_json(grid), "output": grid_json(table[grid])} for grid in grids]


@pytest.mark.slow
def test_the_command_makes_and_continues_a_model(tmp_path: Path) -> None:
    corpus, out = tmp_path / "corpora", tmp_path / "out"
    corpus.mkdir()
    (corpus / "rearc.json").write_text(json.dumps({f"rule{i}": recolouring(i) for i in range(60)}))
    arguments = ["pretrain", "--corpus", str(corpus), "--out", str(out), "--preset", "tiny", "--minutes", "0.15"]
    arguments += ["--mixture", "arc1=0, arc2=0,procedural=0"]

    def position() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((out / "latest" / "state.json").read_text())["position"]
        return found

    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "rearc: 60 families, 480 pairs; barred 0 families" in first.output
    assert load_base(out / "latest", ModelSettings(), weights=False).model.config.hidden_size == 64
    made = position()
    assert made["by_source"] == {"rearc": made["tokens"]}
    second = CliRunner().invoke(app, [*arguments, "--resume", str(out / "latest")])
    assert second.exit_code == 0, second.output
    assert "corpus from" in second.output
    assert position()["steps"] > made["steps"] > 0
    assert f"tokens by source: rearc {position()['tokens']:,}" in second.output


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        ("rearc", "'rearc' is not SOURCE=SHARE"),
        ("rearc=much", "'rearc=much' is not SOURCE=SHARE"),
        ("rearc=-1", "share of 0 or more"),
        ("rearc=nan", "share of 0 or more"),
        ("=1", "'=1' is not SOURCE=SHARE with"),
        ("rearx=1", "no source 'rearx'; there are: arc1, arc2, procedural"),
        ("arc1=0,arc2=0,procedural=0", "every source there is has the share 0"),
        (",".join(f"{source}=0" for source in MIXTURE), "all shares are 0"),
    ],
)
def test_mixtures_that_cannot_be_drawn_are_refused(mixture: str, told: str, tmp_path: Path) -> None:
    arguments = ["pretrain", "--out", str(tmp_path / "out"), "--preset", "tiny", "--minutes", "1", "--mixture", mixture]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--device", "gpu"], "--device: 'gpu' is no device"),
        (["--device", "cuda:97"], "--device: 'cuda:97' asked for, but this machine has"),
        (["--out", "FILE"], "file: cannot be written: File exists"),
        (["--out", "FILE/out"], "file/out: cannot be written: Not a directory"),
        (
            ["--corpus", "LONG", "--mixture", "arc1=0,arc2=0,procedural=0"],
            "no family of the corpora has 2 pairs that fit a sequence",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(options: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "long").mkdir()
    grid = [[1] * 30] * 30
    (tmp_path / "long" / "mine.json").write_text(json.dumps({f"f{i}": [{"input": grid, "output": grid}] * 3 for i in range(40)}))
    options = [option.replace("FILE", str(tmp_path / "file")).replace("LONG", str(tmp_path / "long")) for option in options]
    result = CliRunner().invoke(app, ["pretrain", "--out", str(tmp_path / "out"), "--preset", "tiny", "--minutes", "0", *options])
    assert result.exit_code == 2, result.output
    assert told in result.output.splitlines()[-1]


def test_held_out_generators_too_long_for_a_sequence_are_replaced_by_procedural_families() -> None:
    grid = np.ones((30, 30), np.uint8)
    store = pack([("family", "rearc", [Pair(grid, grid)] * 3)])
    batches = validation_batches(store, Guard.against([]), SamplerSettings(batch_tokens=1024, block_batches=1), grid_codec())
    assert {source for batch in batches for source in batch.by_source} == {"procedural"}


def test_the_data_goes_on_with_the_seed_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[list[int]], int]] = []

    def train(target: PretrainTarget, sampler: Sampler, validation: Any, *rest: Any, **others: Any) -> None:
        asked.append((sampler.block(3)[0].ids.tolist(), rest[3]))

    def run(seed: int, resume: Path | None) -> list[str]:
        lines: list[str] = []
        small = SamplerSettings(batch_tokens=512, block_batches=1, max_tokens=512)
        pretrain(PretrainOptions(tmp_path, None, LoopSettings(0), "tiny", resume, seed=seed, sampler=small), lines.append)
        return lines

    store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training").tasks[:40])
    monkeypatch.setattr(command, "load_store", lambda *_: store)
    monkeypatch.setattr(command, "train", train)
    checkpoint = save_checkpoint(tmp_path, GridTarget(new_model(PRESETS["tiny"])), [], Position(seed=5))
    said = [run(5, None), run(0, checkpoint), run(5, checkpoint), run(0, None)]
    assert [any("with its seed 5" in line for line in lines) for lines in said] == [False, True, False, False]
    assert asked[0] == asked[1] == asked[2] != asked[3]
    assert [seed for _, seed in asked] == [5, 5, 5, 0]


def test_generators_that_a_language_model_wrote_are_drawn_only_if_the_mixture_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    monkeypatch.setattr(command, "evaluation_guard", lambda: Guard.against([]))
    monkeypatch.setattr(command, "validation_batches", lambda *_: [])
    monkeypatch.setattr(command, "train", lambda target, sampler, *rest, **others: drawn.append(sampler.sources))
    tasks = load_tasks("arc1:training").tasks[:60]
    families = [(f"{LM_FAMILY}{n}", "written", [*t.train, *t.test]) for n, t in enumerate(tasks[:30])]
    mixed = [(f"{LM_FAMILY}{n}" if n else "mine", "mixed", [*t.train, *t.test]) for n, t in enumerate(tasks[30:])]
    monkeypatch.setattr(command, "load_store", lambda *_: pack([*families, *mixed]))
    for mixture in (MIXTURE, {**MIXTURE, "written": 0.1}):
        pretrain(PretrainOptions(tmp_path, None, LoopSettings(0), "tiny", mixture=mixture), lambda _: None)
    assert drawn == [["mixed", "procedural"], ["mixed", "procedural", "written"]]


def test_a_mixture_changes_the_shares_it_names_and_no_others() -> None:
    assert parse_mixture("rearc=0.5, mine=2", {"rearc": 0.1, "arc1": 0.9}) == {"rearc": 0.5, "arc1": 0.9, "mine": 2.0}


def test_an_empty_or_missing_corpus_folder_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(folder))):
            load_store(folder, tmp_path / "out", Guard.against([]), print)
