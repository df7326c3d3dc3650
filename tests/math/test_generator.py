"""Fine-tuning, drawing and sampling with a small real model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cpu_settings import CPU
from typer.testing import CliRunner

from solver.cli import app
from solver.config import InferSettings
from solver.errors import InputError
from solver.math.accuracy import measure
from solver.math.annotations import chosen, is_well_formed
from solver.math.drawing import DrawOptions, draw
from solver.math.finetune import FinetuneOptions, finetune
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem, write_problems
from solver.math.sampling import distinct, sample_solutions
from solver.types import NEVER, Deadline, ScoreRequest
from solver.verify.samples import Sample, read_samples

Problems = tuple[MathProblem, ...]
HOT = DrawOptions(samples=6, temperature=1.3, max_new_tokens=80)
WARM = replace(HOT, temperature=0.8)


def quiet(_: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def generator(generator_folder: Path) -> Generator:
    return load_generator(generator_folder, CPU)


@pytest.fixture(scope="module")
def untrained_generator(untrained: Path) -> Generator:
    return load_generator(untrained, CPU)


def test_accuracy_counts_greedy_answers_and_samples(generator: Generator, problems: Problems) -> None:
    engine = generator.engine(InferSettings())
    found = measure(engine, generator.tokenizer, problems[:4], replace(HOT, temperature=0.2), NEVER)
    assert (found.problems, found.greedy, found.sampled, found.guesses, found.solved) == (4, 4, 4, 6, 4)
    assert 0.8 < found.test_at_1 <= 1
    assert found.text().startswith("greedy 4 of 4: 100.0% (51.0 to 100.0), test@1 ")
    cut = measure(engine, generator.tokenizer, problems[:8], HOT, Deadline(0.0, lambda: 1.0))
    assert (cut.problems, cut.sampled) == (0, 0)


def test_samples_are_sound_graded_and_scored(generator: Generator, problems: Problems) -> None:
    engine, tokenizer = generator.engine(InferSettings()), generator.tokenizer
    seen = 0
    for problem, drawn in zip(problems, draw(engine, tokenizer, problems, HOT, NEVER), strict=True):
        assert drawn.problem.id == problem.id
        assert len(drawn.samples) == 6
        assert sum(not is_well_formed(s.text) for s in drawn.samples if s.ids[-1] == tokenizer.end) == drawn.ill_formed
        requests = [
            ScoreRequest("s", tokenizer.prompt(problem.question), None, (np.array(s.ids, dtype=np.int32),)) for s in drawn.samples
        ]
        for sample, request in zip(drawn.samples, requests, strict=True):
            (result,) = engine.score([request], NEVER)
            by_token = result.completions[0].logprobs
            free = chosen(sample.ids, tokenizer)
            assert sample.logprob == pytest.approx(float(by_token[free].sum()), abs=1e-3)
            seen += (~free).sum()
            assert sample.correct == (sample.answer == problem.answer)
            assert tokenizer.text(sample.ids) == sample.text
    assert seen > 50  # values that the calculator wrote


def test_samples_of_a_problem_are_the_same_alone(generator: Generator, problems: Problems) -> None:
    engine, tokenizer = generator.engine(InferSettings()), generator.tokenizer
    together = list(draw(engine, tokenizer, problems, HOT, NEVER))
    alone = next(draw(engine, tokenizer, problems[5:6], HOT, NEVER))
    assert [s.text for s in together[5].samples] == [s.text for s in alone.samples]
    assert len({s.text for s in draw_texts(together)}) > 20
    orders = [sorted(d.samples, key=lambda s: -s.logprob) == list(d.samples) for d in together]
    assert not all(orders)  # the first n are no better than the others


def draw_texts(drawn: list) -> list[Sample]:  # type: ignore[type-arg]
    return [sample for one in drawn for sample in one.samples]


def test_ill_formed_samples_are_drawn_again_up_to_a_limit(generator: Generator, problems: Problems) -> None:
    engine, tokenizer = generator.engine(InferSettings()), generator.tokenizer
    some = problems[4:8]
    once, thrice = (list(draw(engine, tokenizer, some, replace(HOT, redraws=n), NEVER)) for n in (0, 3))
    off = list(draw(engine, tokenizer, some, replace(HOT, calculator=False), NEVER))
    assert all(len(one.samples) == 6 for one in (*once, *thrice, *off))
    first = sum(one.ill_formed for one in once)
    assert first > sum(one.ill_formed for one in thrice)
    assert [sum(one.redrawn for one in drawn) for drawn in (once, off)] == [0, 0]
    assert sum(one.redrawn for one in thrice) >= first - sum(one.ill_formed for one in thrice)
    unsound = [s for one in once for s in one.samples if s.ids[-1] == tokenizer.end and not is_well_formed(s.text)]
    assert len(unsound) == first
    assert all(sample.answer is None and not sample.correct for sample in unsound)
    assert any(not is_well_formed(s.text) for one in off for s in one.samples)


def test_problems_that_are_complete_at_the_deadline_are_given(generator: Generator, problems: Problems) -> None:
    class Cutting:
        """An engine of which the second request is cut."""

        def __init__(self) -> None:
            self.engine = generator.engine(InferSettings())

        def sample(self, requests, deadline):  # type: ignore[no-untyped-def]
            for result in self.engine.sample(requests, deadline):
                cut = result.request == problems[1].id
                yield replace(result, status="cut", completions=result.completions[:2]) if cut else result

    options = replace(HOT, temperature=0.2, samples=3)
    whole = list(draw(generator.engine(InferSettings()), generator.tokenizer, problems[:3], options, NEVER))
    found = list(draw(Cutting(), generator.tokenizer, problems[:3], options, NEVER))  # type: ignore[arg-type]
    assert [one.problem.id for one in found] == [problems[0].id, problems[2].id]
    assert [one.samples for one in found] == [whole[0].samples, whole[2].samples]


def test_a_problem_longer_than_the_context_is_named(generator: Generator, problems: Problems) -> None:
    long = replace(problems[0], id="77", question="why " * 2000)
    with pytest.raises(InputError, match=r"problem 77: .* do not fit the context of 512"):
        list(draw(generator.engine(InferSettings()), generator.tokenizer, [long], HOT, NEVER))


def test_a_file_of_samples_is_continued_where_it_was_stopped(generator: Generator, problems: Problems, tmp_path: Path) -> None:
    def call(out: Path, some: Problems, keep: bool = False, options: DrawOptions = WARM):  # type: ignore[no-untyped-def]
        return sample_solutions(generator, InferSettings(), some, out, options, keep, NEVER, quiet)

    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    counts = call(whole, problems)
    assert (counts.problems, counts.left) == (12, 0)
    assert counts.samples + counts.duplicates == 72
    assert counts.duplicates > 0
    call(parts, problems[:5])
    text = parts.read_bytes()
    parts.write_bytes(text[: len(text) - 700])  # a kill in the midst of the last problem
    cut = len(read_lines(parts))
    assert call(parts, problems).problems == 7
    assert cut < len(text.splitlines())
    done, resumed = (read_samples(path, generator.fingerprint) for path in (whole, parts))
    assert resumed.problems == done.problems
    assert [replace(s, logprob=0.0) for s in resumed.samples] == [replace(s, logprob=0.0) for s in done.samples]
    assert sum(sample.correct for sample in done.samples) == counts.right
    for group in done.by_problem().values():
        assert len({sample.text.strip() for sample in group}) == len(group)
    again = call(whole, problems)
    assert (again.samples, again.problems) == (0, 0)
    kept = call(tmp_path / "kept.jsonl", problems, keep=True)
    assert (kept.samples, kept.duplicates) == (72, 0)
    with pytest.raises(InputError, match=r"was sampled with other options \(temperature\)"):
        call(whole, problems, options=HOT)
    with pytest.raises(InputError, match="problem 0 has another question there"):
        call(whole, (replace(problems[1], id="0"),))
    other = replace(generator, fingerprint="another")
    with pytest.raises(InputError, match="samples of another model"):
        sample_solutions(other, InferSettings(), problems, whole, WARM, False, NEVER, quiet)


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def test_the_deadline_leaves_problems_for_later(generator: Generator, problems: Problems, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    counts = sample_solutions(generator, InferSettings(), problems, out, HOT, False, Deadline(0.0, lambda: 1.0), quiet)
    assert (counts.problems, counts.samples, counts.left) == (0, 0, 12)
    assert read_samples(out).problems == ()


def test_the_first_of_equal_samples_is_kept() -> None:
    samples = [Sample("1", text, (1,), float(n), None, False) for n, text in enumerate(("a", "b", " a\n", "c", "b"))]
    assert [sample.logprob for sample in distinct(samples)] == [0.0, 1.0, 3.0]


def test_lora_is_merged_into_a_model_of_its_own(generator_folder: Path, problems: Problems, tmp_path: Path) -> None:
    guesses = DrawOptions(samples=2, max_new_tokens=100)
    options = FinetuneOptions(epochs=2, trainer="lora", rank=8, lr=1e-3, batch_sequences=4, guesses=guesses)
    done = finetune(generator_folder, CPU, InferSettings(), problems[:8], problems[:4], tmp_path, options, NEVER, quiet)
    assert [epoch.epoch for epoch in done] == [0, 1, 2]
    assert [epoch.steps for epoch in done] == [0, 2, 2]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["accuracy"]["greedy"] for line in lines] == [epoch.accuracy.greedy for epoch in done]
    assert lines[2]["loss"] == done[2].loss
    before, after = load_generator(generator_folder, CPU), load_generator(tmp_path / "model", CPU)
    assert before.fingerprint != after.fingerprint
    assert before.tokenizer.prompt("5 apples").tolist() == after.tokenizer.prompt("5 apples").tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "model"]


def test_without_steps_only_answers_are_learnt_and_the_deadline_ends_the_training(
    untrained: Path, problems: Problems, tmp_path: Path
) -> None:
    options = FinetuneOptions(
        epochs=1, steps=False, lr=3e-3, batch_sequences=2, guesses=DrawOptions(samples=0, max_new_tokens=20)
    )
    done = finetune(untrained, CPU, InferSettings(), problems[:2] * 60, problems[:2], tmp_path / "a", options, NEVER, quiet)
    assert done[1].accuracy.greedy == 2
    late = Deadline(0.0, lambda: 1.0)
    lines: list[str] = []
    done = finetune(untrained, CPU, InferSettings(), problems[:4], problems[:4], tmp_path / "b", options, late, lines.append)
    assert len(done) == 1
    assert lines[-1] == "epoch 1: the time is over before its first step"
    assert not (tmp_path / "b" / "model").exists()


def test_the_commands_work_from_end_to_end(
    generator_folder: Path, problem_file: Path, problems: Problems, tmp_path: Path
) -> None:
    test = tmp_path / "test.jsonl"
    write_problems(test, problems[:2])
    model = str(generator_folder)

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["math", *map(str, arguments)])
        return result.exit_code, result.output

    code, output = run("finetune", model, "--problems", problem_file, "--test", test, "--out", tmp_path / "g")
    assert code == 2
    assert f"{test}: 2 of its problems are in {problem_file}, too" in " ".join(output.split())
    unknown = tmp_path / "unknown.jsonl"
    write_problems(unknown, problems[10:])
    small = ["--epochs", 1, "--first", 8, "--guesses", 2, "--max-new-tokens", 60, "--lr", 1e-4, "--device", "cpu"]
    code, output = run("finetune", model, "--problems", problem_file, "--test", unknown, "--out", tmp_path / "g", *small)
    assert code == 0
    assert "before: greedy " in output
    assert "epoch 1: greedy " in output
    fast = ["--samples", 3, "--max-new-tokens", 60, "--first", 2, "--json", "--device", "cpu"]
    code, output = run("sample", tmp_path / "g" / "model", "--problems", test, "--out", tmp_path / "s.jsonl", *fast)
    assert code == 0
    assert json.loads(output[output.index("{") :])["problems"] == 2
    code, output = run("sample", generator_folder, "--problems", test, "--out", tmp_path / "s.jsonl", *fast)
    assert code == 2
    assert "samples of another model" in output
