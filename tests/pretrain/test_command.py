"""`solver pretrain` from corpus files to a model folder, by the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from solver.arc.grid import GridJson, grid_json
from solver.cli import app
from solver.errors import InputError
from solver.pretrain.command import load_store
from solver.pretrain.guard import Guard


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

    def steps() -> int:
        return int(json.loads((out / "latest" / "state.json").read_text())["position"]["steps"])

    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "rearc: 60 families, 480 pairs; barred 0 families" in first.output
    assert AutoModelForCausalLM.from_pretrained(out / "latest", use_safetensors=True).config.hidden_size == 64
    made = steps()
    second = CliRunner().invoke(app, [*arguments, "--resume", str(out / "latest")])
    assert second.exit_code == 0, second.output
    assert "corpus from" in second.output
    assert steps() > made > 0


def test_an_empty_or_missing_corpus_folder_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(folder))):
            load_store(folder, tmp_path / "out", Guard.against([]), print)
