"""Base models made from nothing: batches of problems, and a model folder that others load."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
from cpu_settings import CPU

from solver.math.base_model import BaseOptions, BaseShape, ProblemBatches, make_base
from solver.math.generator import load_generator
from solver.math.tokens import MathTokenizer
from solver.math.word_problems import Difficulty
from solver.model.load import load_tokenizer
from solver.model.value_head import reserved_token


def test_a_base_model_is_a_folder_with_a_tokenizer_and_a_reserved_token(tmp_path: Path) -> None:
    lines: list[str] = []
    options = BaseOptions(minutes=60.0, steps=25, shape=BaseShape(32, 1, 2), difficulty=Difficulty(2, 2), batch_tokens=512)
    folder = make_base(tmp_path / "base", options, lines.append)
    generator = load_generator(folder, CPU)
    assert generator.base.context == 512
    ids = generator.tokenizer.completion("Ann has <<12+5=17>>17.\n#### 17")
    assert generator.tokenizer.text(ids) == "Ann has <<12+5=17>>17.\n#### 17"
    assert reserved_token(generator.base) not in ids
    metrics = [json.loads(line) for line in (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 25
    assert metrics[-1]["held_out_loss"] < np.log(len(set(ids.tolist())) * 100)
    assert lines[-1] == f"{folder}: the model"


def test_a_tokenizer_beside_a_configuration_with_a_byte_order_mark_is_read(untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "marked"
    shutil.copytree(untrained, folder)
    config = folder / "config.json"
    config.write_text("\ufeff" + config.read_text(encoding="utf-8"), encoding="utf-8")
    tokenizer = MathTokenizer(load_tokenizer(folder), "marked")
    assert tokenizer.text(tokenizer.completion("5 apples")) == "5 apples"


def test_blocks_depend_on_their_numbers_alone_and_batches_hold_whole_problems(untrained: Path) -> None:
    tokenizer = load_generator(untrained, CPU).tokenizer
    source = ProblemBatches(tokenizer, Difficulty(2, 3), batch_tokens=700, seed=5)
    block = source.block(3)
    for one, same in zip(block, source.block(3), strict=True):
        np.testing.assert_array_equal(one.ids, same.ids)
        assert one.ids.size <= 700
        assert one.tokens == (one.ids != tokenizer.pad).sum() == one.by_source["problems"]
        assert (one.weights[:, 1:] > 0).sum() == one.tokens - len(one.ids)
        for row in one.ids:
            text = tokenizer.text(row[row != tokenizer.pad])
            assert "?\n" in text
            assert "\n#### " in text
    assert sum(len(one.ids) for one in block) == 512
    places = list(itertools.islice(source.batches(3, 1), len(block)))
    assert places[-2][:2] == (4, 0)
    assert places[-1][:2] == (4, 1)
    np.testing.assert_array_equal(places[0][2].ids, block[1].ids)
