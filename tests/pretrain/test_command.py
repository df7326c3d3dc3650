"""`solver pretrain` from corpus files to a model folder, by the command line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from solver.arc.grid import GridJson, grid_json
from solver.cli import app
from solver.errors import InputError
from solver.pretrain.command import MIXTURE, load_store
from solver.pretrain.guard import Guard
from solver.pretrain.sampler import parse_mixture


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
    assert AutoModelForCausalLM.from_pretrained(out / "latest", use_safetensors=True).config.hidden_size == 64
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


def test_a_mixture_changes_the_shares_it_names_and_no_others() -> None:
    assert parse_mixture("rearc=0.5, mine=2", {"rearc": 0.1, "arc1": 0.9}) == {"rearc": 0.5, "arc1": 0.9, "mine": 2.0}


def test_an_empty_or_missing_corpus_folder_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(folder))):
            load_store(folder, tmp_path / "out", Guard.against([]), print)
