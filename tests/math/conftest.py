"""A generator made in seconds: it knows some problems by heart, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from cpu_settings import CPU

from solver.config import InferSettings
from solver.math import base_model
from solver.math.base_model import BaseShape
from solver.math.drawing import DrawOptions
from solver.math.finetune import FinetuneOptions, finetune
from solver.math.problems import MathProblem, write_problems
from solver.math.tokens import MathTokenizer, new_tokenizer
from solver.math.word_problems import Difficulty, make_problems
from solver.types import NEVER


@pytest.fixture(scope="session")
def problems() -> tuple[MathProblem, ...]:
    return tuple(itertools.islice(make_problems(0, Difficulty(2, 3), ""), 12))


@pytest.fixture(scope="session")
def problem_file(problems: tuple[MathProblem, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "known.jsonl"
    write_problems(path, problems)
    return path


@pytest.fixture(scope="session")
def untrained(problems: tuple[MathProblem, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model with a tokenizer of its own."""
    tokenizer = new_tokenizer(f"{problem.question}\n{problem.completion()}" for problem in problems)
    model = base_model._new_model(BaseShape(hidden=64, layers=2, heads=1), tokenizer, seed=0)
    folder = tmp_path_factory.mktemp("untrained") / "model"
    folder.mkdir()
    base_model._Target(model, tokenizer, MathTokenizer(tokenizer, "test").codec).write(folder)
    return folder


@pytest.fixture(scope="session")
def generator_folder(untrained: Path, problems: tuple[MathProblem, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that solves the first four problems."""
    out = tmp_path_factory.mktemp("generator")
    guesses = DrawOptions(samples=0, max_new_tokens=80)
    options = FinetuneOptions(epochs=1, lr=4e-3, batch_sequences=4, guesses=guesses, seed=1)
    threads = torch.get_num_threads()
    repeated = problems[:4] * 260
    done = finetune(untrained, CPU, InferSettings(), repeated, problems[:4], out, options, NEVER, lambda _: None)
    assert torch.get_num_threads() == threads
    assert [epoch.accuracy.greedy for epoch in done] == [0, 4]
    return out / "model"
