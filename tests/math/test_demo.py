"""The demo and the search from files to files, with a small real model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from solver.commands.math_demo import DemoOptions, demo, greedy_answers
from solver.commands.math_solve import solve
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.math.drawing import DrawOptions
from solver.math.generator import load_generator
from solver.math.problems import MathProblem, read_problems, write_problems
from solver.verify.samples import read_samples
from solver.verify.training import VerifierOptions
from solver.verify.verifier import load_verifier

Problems = tuple[MathProblem, ...]


@pytest.fixture(scope="module")
def done(generator_folder: Path, problems: Problems, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a demo that fine-tunes a model which knows the first four of twelve problems."""
    out = tmp_path_factory.mktemp("demo")
    write_problems(out / "test.jsonl", problems[:5])
    options = DemoOptions(
        model=generator_folder,
        train=problem_file,
        test=out / "test.jsonl",
        samples=6,
        test_samples=5,
        temperature=1.3,
        verifier=VerifierOptions(batch_sequences=8),
        ablations_seconds=600.0,
    )
    lines: list[str] = []
    measured = demo(out / "demo", options, lines.append)
    assert any(line.startswith("verifier against majority vote: ") for line in measured.lines)
    assert any(line.startswith("main: ") for line in lines)
    return out / "demo"


def test_every_stage_leaves_its_files(done: Path, problem_file: Path) -> None:
    results = json.loads((done / "results.json").read_text())
    assert (results["problems"], results["samples"]) == (5, 5)
    assert 0 <= results["greedy"] <= 5
    changed = {"solution level", "without joint loss", "all samples", "residual dropout 0.2", "binary cross-entropy"}
    variants = {"main", "reference", *changed}
    assert results["variants"].keys() == variants
    assert results["variants"]["main"]["problems"] == 10
    assert results["variants"]["reference"]["problems"] == 5
    assert 0 <= results["procedure"]["right"] <= 5
    report = (done / "report.md").read_text()
    assert "- best on 2 held-out training problems: verifier" in report
    assert "| best samples that vote | solved | 95 % |" in report
    assert all(f"| {name} | " in report for name in variants)
    for picture in ("samples.png", "votes.png", "poolings.png", "data.png"):
        assert (done / picture).read_bytes().startswith(b"\x89PNG")
    assert "reference answer: " in (done / "solutions.html").read_text()
    generator = load_generator(done / "generator" / "model", ModelSettings())
    assert load_verifier(done / "verifier", ModelSettings()).facts.generator == generator.fingerprint


def test_greedy_answers_are_those_of_the_problems_that_were_sampled(done: Path) -> None:
    """The time may end while a chunk of problems is drawn; those before a complete one may be missing then."""
    generator = load_generator(done / "generator" / "model", ModelSettings())
    asked = read_samples(done / "test.jsonl")
    asked = replace(asked, problems=asked.problems[2:], samples=tuple(one for one in asked.samples if int(one.problem) > 2))
    tested = read_problems(done.parent / "test.jsonl")
    found = greedy_answers(generator, InferSettings(), tested, 60, asked)
    assert found.keys() == {"3", "4", "5"}


def test_problems_are_answered_in_the_time_that_is_given(done: Path, problem_file: Path, tmp_path: Path) -> None:
    generator, verifier, out = done / "generator" / "model", done / "verifier", tmp_path / "answers.jsonl"
    options = DrawOptions(temperature=1.3, max_new_tokens=60)
    lines = solve(problem_file, generator, verifier, out, 600.0, 6, options, lambda _: None)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one["problem"] for one in answers] == [str(number) for number in range(1, 13)]
    assert all((one["samples"], one["votes"]) == (6, 1) for one in answers)
    assert lines[0].startswith(f"{sum(one['correct'] for one in answers)} of 12 right: ")
    assert lines[1] == "samples of a problem: 6 to 6, 6.0 on average"
    hurried = solve(problem_file, generator, verifier, out, 1e-9, 6, options, lambda _: None)
    assert hurried == ["0 of 12 right: 0.0 % (0.0 to 24.3)", "samples of a problem: 0 to 0, 0.0 on average"]


def test_bad_input_is_refused(done: Path, generator_folder: Path, problem_file: Path, tmp_path: Path) -> None:
    arguments = (done / "verifier", tmp_path / "answers.jsonl", 600.0, 6, DrawOptions(), lambda _: None)
    with pytest.raises(InputError, match="a verifier of another generator"):
        solve(problem_file, generator_folder, *arguments)
    with pytest.raises(InputError, match="give problems to train on and problems to test on, or neither"):
        demo(tmp_path / "demo", DemoOptions(train=problem_file), lambda _: None)
