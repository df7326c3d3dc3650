"""`solver verify` from files to files, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from solver.cli import app
from solver.codec import grid_codec
from solver.model.folder import folder_identity
from solver.verify.samples import Problem, Sample, SampleSet, read_samples, write_samples
from solver.verify.scoring import read_values

CODEC = grid_codec()


@pytest.fixture(scope="module")
def samples(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six problems with ten different samples each; the answer is a digit, and right if it is at least 5."""
    problems, drawn = [], []
    for number in range(6):
        problems.append(Problem(f"p{number}", (*CODEC.begin, number, CODEC.output_marker[0]), "high"))
        for digit in range(10):
            ids = (digit, CODEC.end)
            drawn.append(Sample(f"p{number}", str(digit), ids, -float(digit), "high" if digit >= 5 else str(digit), digit >= 5))
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    write_samples(path, SampleSet(folder_identity(tiny_base), tuple(problems), tuple(drawn)))
    return path


def solver(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in ("verify", *arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def verifier(samples: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verifier") / "verifier"
    options = ("--lr", "1e-2", "--epochs", "8", "--batch", "8", "--dropout", "0.1")
    code, out, progress = solver("train", samples, "--generator", tiny_base, "--out", folder, *options)
    assert (code, "120 steps" in out, "60 samples of 6 problems, 30 right" in progress) == (0, True, True)
    return folder


def test_scores_are_measured_and_drawn(samples: Path, verifier: Path, tmp_path: Path) -> None:
    code, out, progress = solver("score", samples, "--verifier", verifier, "--out", tmp_path / "scores", "--pool", "mean")
    assert code == 0
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert (results["problems"], results["samples"], results["problems_not_scored"]) == (6, 10, 0)
    assert results["right"]["verifier"] == 6
    assert results["right"]["majority vote"] == 6
    assert results["right"]["log-probability"] == 0
    assert "verifier against log-probability: +100.0 points" in out
    assert "scored: 6 of 6 problems" in progress
    for picture in ("samples.png", "votes.png", "poolings.png"):
        assert (tmp_path / "scores" / picture).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "scores" / "solutions.html").read_text()
    assert page.count("<article") == 6 * 6
    scored = read_values(tmp_path / "scores" / "values.jsonl", read_samples(samples))
    assert len(scored) == 6
    assert all(len(values) == 2 for one in scored for values in one.values)


def refused(*arguments: str | Path) -> str:
    code, _, error = solver(*arguments)
    assert code == 2
    assert error.count("\n") == 1
    return error


def test_bad_input_is_refused_in_one_line(
    samples: Path, verifier: Path, tiny_base: Path, plain_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "samples of another model" in refused("train", samples, "--generator", plain_base, "--out", out)
    assert "no such model folder" in refused("train", samples, "--generator", tmp_path / "none", "--out", out)
    text = samples.read_text()
    other = tmp_path / "other.jsonl"
    other.write_text(text.replace(folder_identity(tiny_base), "0123456789abcdef"))
    assert "a verifier of another generator" in refused("score", other, "--verifier", verifier, "--out", out)
    assert "unknown pooling 'first'" in refused("score", samples, "--verifier", verifier, "--out", out, "--pool", "first")
    assert "not a verifier" in refused("score", samples, "--verifier", tiny_base, "--out", out)
    for rate in ("0", "-1"):
        code, _, error = solver("train", samples, "--generator", tiny_base, "--out", out, "--lr", rate)
        assert (code, "Invalid value for '--lr'" in error) == (2, True)
    other.write_text(text + "{\n")
    assert "line 68: not valid JSON" in refused("train", other, "--generator", tiny_base, "--out", out)
    assert not out.exists()
