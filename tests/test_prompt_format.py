"""Prompt formats of published ARC models: ready ones and described ones, on tokenizers and tiny models made as theirs are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arc_strategies import grids, tasks
from hypothesis import given
from prompt_decoding import decode_prompt
from text_models import architects_tokenizer, nvarc_tokenizer, random_model
from transformers import PreTrainedTokenizerFast

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.codec import Codec
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.grammar import STATE, GridMachine
from solver.infer.hf import HFEngine
from solver.model.load import load_base, load_text_codec
from solver.types import NEVER, SampleRequest, SearchRequest

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjklmnpqrstuvwxyz"
MAKERS: dict[str, Callable[[Path], None]] = {"nvarc": nvarc_tokenizer, "architects": architects_tokenizer}


def rows(grid: Grid | None) -> str:
    assert grid is not None
    return "\n".join("".join(map(str, row)) for row in grid.tolist())


def nvarc_text(task: Task) -> str:
    """By hand: user and assistant take turns."""

    def said(role: str, grid: Grid | None) -> str:
        return f"<|im_start|>{role}\n{rows(grid)}<|im_end|>"

    turns = "".join(said("user", pair.input) + said("assistant", pair.output) for pair in task.train)
    return turns + said("user", task.test[0].input) + "<|im_start|>assistant\n"


def architects_text(task: Task) -> str:
    """By hand: letters before the task, a row separator after every answer."""
    pairs = "".join(f"I{rows(pair.input)}\n+/-=O{rows(pair.output)}\n</s>" for pair in task.train)
    return f"<s>{LETTERS}{pairs}I{rows(task.test[0].input)}\n+/-=O"


TEXTS = {"nvarc": nvarc_text, "architects": architects_text}
both = pytest.mark.parametrize("name", TEXTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders without a description of their format."""
    found = {}
    for name, write in MAKERS.items():
        folder = tmp_path_factory.mktemp(name) / "model"
        folder.mkdir()
        size = 16 if name == "nvarc" else 80
        random_model("qwen3", True, size).save_pretrained(folder)
        write(folder)
        found[name] = folder
    return found


@pytest.fixture(scope="module")
def codecs(folders: dict[str, Path]) -> dict[str, Codec]:
    return {name: load_text_codec(folder, name) for name, folder in folders.items()}


@both
@given(task=tasks())
def test_prompts_are_written_as_the_model_was_trained(
    name: str, task: Task, codecs: dict[str, Codec], folders: dict[str, Path]
) -> None:
    codec = codecs[name]
    ids = codec.prompt(task, 0, 10**6).ids
    special = {"bos_token": "<s>"} if name == "architects" else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folders[name] / "tokenizer.json"), **special)
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == TEXTS[name](task)
    assert tokenizer.encode(TEXTS[name](task), add_special_tokens=False) == ids.tolist()
    demonstrations, shown = decode_prompt(codec, ids)
    assert demonstrations == task.train
    assert np.array_equal(shown, task.test[0].input)


@both
@given(grid=grids(8))
def test_answers_come_back_and_are_sentences_of_the_grammar(name: str, grid: Grid, codecs: dict[str, Codec]) -> None:
    codec = codecs[name]
    answer = codec.encode_answer(grid)
    assert len(answer) == codec.answer_tokens(grid) <= codec.longest_answer
    assert np.array_equal(codec.decode_answer(answer), grid)  # type: ignore[arg-type]
    machine = GridMachine(codec.grammar, 80)
    state = np.zeros((1, STATE), np.int16)
    for at, token in enumerate(answer.tolist()):
        allowed = set(machine.columns[machine.allowed(state)[0]].tolist())
        assert token in allowed
        closed = codec.decode_answer([*answer[:at].tolist(), codec.end]) is not None
        assert (codec.end in allowed) == closed
        if token != codec.end:
            machine.advance(state, np.array([token]))


def test_an_answer_of_the_largest_grid_has_the_most_tokens(codecs: dict[str, Codec]) -> None:
    grid = np.full((30, 30), 7, np.uint8)
    for codec, tokens in ((codecs["nvarc"], 930), (codecs["architects"], 931)):
        answer = codec.encode_answer(grid)
        assert len(answer) == codec.longest_answer == tokens
        assert np.array_equal(codec.decode_answer(answer), grid)  # type: ignore[arg-type]


def test_nvarcs_tokens_are_those_of_its_vocabulary(codecs: dict[str, Codec]) -> None:
    codec = codecs["nvarc"]
    assert (codec.cells, codec.newline, codec.end, codec.pad, codec.begin) == (tuple(range(10)), 10, 15, 13, ())
    assert (codec.input_marker, codec.output_marker) == ((14, 11, 10), (15, 14, 12, 10))


def test_without_a_description_the_format_is_refused_with_the_way_out(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"wrong vocabulary: .*model\.format.*format\.json"):
        load_base(folders["nvarc"], ModelSettings(dtype="float32", device="cpu"))


@both
def test_a_file_beside_the_model_or_a_setting_names_the_format(name: str, folders: dict[str, Path]) -> None:
    by_setting = load_base(folders[name], ModelSettings(dtype="float32", device="cpu", format=name))  # type: ignore[arg-type]
    (folders[name] / "format.json").write_text(json.dumps({"format": name}))
    by_file = load_base(folders[name], ModelSettings(dtype="float32", device="cpu"))
    (folders[name] / "format.json").unlink()
    assert by_setting.codec == by_file.codec
    engine = HFEngine(by_file, InferSettings())
    prompt = np.arange(4, dtype=np.int32)
    sampled = next(engine.sample([SampleRequest("a", prompt, None, 4, 1.0, by_file.codec.longest_answer)], NEVER))
    found = next(engine.search([SearchRequest("b", prompt, None, 0.001, 20)], NEVER))
    finished = [c for c in (*sampled.completions, *found.completions) if c.finished]
    assert len(sampled.completions) == 4
    assert finished
    assert all(by_file.codec.decode_answer(completion.ids) is not None for completion in finished)


def test_a_format_may_be_described_in_texts_and_ids(folders: dict[str, Path], codecs: dict[str, Codec]) -> None:
    file = folders["nvarc"] / "format.json"
    texts = {"begin": "", "input": "<|im_start|>user\n", "output": "<|im_end|><|im_start|>assistant\n", "end": "{eos}"}
    ids = {"begin": [], "input": [14, 11, 10], "output": [15, 14, "assistant", 10], "row": 10, "end": 15, "pad": 13}
    for described in (texts, ids):
        file.write_text(json.dumps(described))
        codec = load_text_codec(folders["nvarc"])
        file.unlink()
        assert codec == Codec(**{**vars(codecs["nvarc"]), "name": "described-1"})


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ("{", "not valid JSON at line 1"),
        ([], "it is a list, not an object"),
        ({"format": ["nvarc"]}, "unknown format ['nvarc']"),
        ({"format": "of mine"}, "unknown format 'of mine'; there are: text, nvarc, architects"),
        ({"input": "I", "output": "O", "rows": "\n"}, "unknown key 'rows'"),
        ({"input": "I"}, "'output' is missing"),
        ({"input": "I", "output": None}, "'output' is neither"),
        ({"input": "I", "output": -1}, "'output' is neither"),
        ({"input": "I", "output": "O", "cells": ["0", "1"]}, "2 colours"),
        ({"input": "I", "output": "O", "end": "XY"}, "an answer ends with 2 tokens"),
        ({"input": "I", "output": "O", "row": "::"}, "splits '::' into 2 tokens"),
        ({"input": "I", "output": "O", "row": "</s>"}, "does not tell digits, row separator and end apart"),
        ({"input": "é", "output": "O"}, "does not come back"),
        ({"input": 500, "output": "O"}, "wrong vocabulary"),
    ],
)
def test_descriptions_that_cannot_be_used_are_one_line(described: Any, words: str, folders: dict[str, Path]) -> None:
    file = folders["architects"] / "format.json"
    file.write_text(described if isinstance(described, str) else json.dumps(described))
    try:
        with pytest.raises(InputError) as caught:
            load_base(folders["architects"], ModelSettings(dtype="float32", device="cpu"))
    finally:
        file.unlink()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
