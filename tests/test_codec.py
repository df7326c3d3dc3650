"""Codecs: what is written can be read back, long tasks lose demonstrations and never cells, tokenizers agree."""

import re

import numpy as np
import pytest
from arc_strategies import grids, tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_decoding import decode_prompt
from text_models import byte_level_tokenizer, prefixing_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from solver.arc.grid import Grid
from solver.arc.task import Pair, Task
from solver.codec import GRID_VOCABULARY, LONGEST_ANSWER, Codec, TooLong, grid_codec, grid_tokenizer, text_codec


@pytest.fixture(scope="module")
def text_tokenizer() -> PreTrainedTokenizerFast:
    return byte_level_tokenizer()


CODECS = {"grid": grid_codec(), "text": text_codec(byte_level_tokenizer())}
both = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def as_prompt(codec: Codec, task: Task, query: int = 0, context: int = 10**6) -> tuple[tuple[Pair, ...], Grid]:
    return decode_prompt(codec, codec.prompt(task, query, context).ids)


# --- round trips


@both
@given(grid=grids())
def test_answer_round_trip(codec: Codec, grid: Grid) -> None:
    ids = codec.encode_answer(grid)
    back = codec.decode_answer(ids)
    assert back is not None
    assert np.array_equal(back, grid)
    assert len(ids) == codec.answer_tokens(grid) <= LONGEST_ANSWER
    assert ids.dtype == np.int32


@both
@settings(deadline=None)
@given(task=tasks(), data=st.data())
def test_prompt_round_trip(codec: Codec, task: Task, data: st.DataObject) -> None:
    query = data.draw(st.integers(0, len(task.test) - 1))
    demonstrations, shown = as_prompt(codec, task, query)
    assert demonstrations == task.train
    assert np.array_equal(shown, task.test[query].input)


@both
@given(task=tasks())
def test_answers_never_reach_the_prompt(codec: Codec, task: Task) -> None:
    ids = codec.prompt(task, 0, 10**6).ids
    assert np.array_equal(ids, codec.prompt(task.without_answers(), 0, 10**6).ids)


@both
@given(grid=grids(5), data=st.data())
def test_damaged_answers_are_no_grids(codec: Codec, grid: Grid, data: st.DataObject) -> None:
    ids = codec.encode_answer(grid).tolist()
    assert codec.decode_answer(ids[:-1]) is None  # never closed
    assert codec.decode_answer([*ids[:-1], codec.newline, codec.end]) is None  # an empty last row
    assert codec.decode_answer([codec.newline, *ids]) is None
    assert codec.decode_answer([*ids, codec.end]) is None
    at = data.draw(st.integers(0, len(ids) - 2))
    assert codec.decode_answer([*ids[:at], codec.pad, *ids[at + 1 :]]) is None
    if grid.shape[0] > 1:
        assert codec.decode_answer([*ids[:-1], codec.cells[0], codec.end]) is None  # a longer last row


@both
def test_answers_beyond_the_limits_are_no_grids(codec: Codec) -> None:
    cell = codec.cells[3]
    wide, narrow = [cell] * 31 + [codec.end], [cell] * 30 + [codec.end]
    assert codec.decode_answer(wide) is None
    assert codec.decode_answer(narrow) is not None
    tall = [cell, *[codec.newline, cell] * 30, codec.end]
    assert codec.decode_answer(tall) is None
    assert codec.decode_answer([cell, *[codec.newline, cell] * 29, codec.end]) is not None
    assert codec.decode_answer([]) is None
    assert codec.decode_answer([codec.end]) is None


@both
def test_what_is_no_prompt_is_refused(codec: Codec) -> None:
    task = Task("t", (), (Pair(np.zeros((2, 2), np.uint8), None),))
    ids = codec.prompt(task, 0, 10**6).ids
    for bad in (ids[1:], ids[:-1], np.append(ids, np.int32(codec.end)), np.zeros(0, np.int32)):
        with pytest.raises(ValueError, match=r"expected the tokens|not a grid"):
            decode_prompt(codec, bad)


# --- what does not fit


@both
@settings(deadline=None)
@given(task=tasks(max_test=1), slack=st.integers(0, 400), room=st.integers(0, 100))
def test_demonstrations_are_dropped_from_the_front_and_cells_never(codec: Codec, task: Task, slack: int, room: int) -> None:
    bare = len(codec.prompt(Task("t", (), task.test), 0, 10**6).ids)
    context = bare + room + slack
    prompt = codec.prompt(task, 0, context, answer_room=room)
    demonstrations, shown = decode_prompt(codec, prompt.ids)
    assert len(prompt.ids) + room <= context
    assert demonstrations == task.train[prompt.dropped :]
    assert np.array_equal(shown, task.test[0].input)
    if prompt.dropped:  # one more would not have fitted
        more = Task("t", task.train[prompt.dropped - 1 :], task.test)
        assert len(codec.prompt(more, 0, 10**6).ids) + room > context


@both
@given(task=tasks())
def test_a_query_that_does_not_fit_alone_is_too_long(codec: Codec, task: Task) -> None:
    bare = len(codec.prompt(Task("t", (), task.test), 0, 10**6).ids)
    assert codec.prompt(task, 0, bare + LONGEST_ANSWER).dropped == len(task.train)
    with pytest.raises(TooLong, match="task task: test 0 needs"):
        codec.prompt(task, 0, bare + LONGEST_ANSWER - 1)


# --- training sequences


@both
@settings(deadline=None)
@given(task=tasks(), demonstrations=st.booleans(), answer=st.booleans())
def test_weights_cover_outputs_and_nothing_else(codec: Codec, task: Task, demonstrations: bool, answer: bool) -> None:
    sequence = codec.sequence(task, 10**6, demonstrations, answer)
    assert len(sequence.ids) == len(sequence.weights)
    assert sequence.weights[0] == 0
    learnt = (task.train[1:] if demonstrations else ()) + (task.test if answer else ())
    expected = [codec.encode_answer(pair.output) for pair in learnt if pair.output is not None]
    found = sequence.ids[sequence.weights > 0]
    assert np.array_equal(found, np.concatenate([*expected, np.zeros(0, np.int32)]))
    assert set(sequence.weights.tolist()) <= {0.0, 1.0}


@both
@given(task=tasks(max_test=1))
def test_a_sequence_is_the_prompt_and_its_answer(codec: Codec, task: Task) -> None:
    output = task.test[0].output
    assert output is not None
    whole = np.concatenate([codec.prompt(task, 0, 10**6).ids, codec.encode_answer(output)])
    assert np.array_equal(codec.sequence(task, 10**6).ids, whole)


@given(task=tasks(max_test=1, min_train=2), slack=st.integers(0, 100))
def test_a_sequence_loses_demonstrations_first(task: Task, slack: int) -> None:
    codec = grid_codec()
    bare = len(codec.sequence(Task("t", (), task.test), 10**6))
    sequence = codec.sequence(task, bare + slack)
    assert len(sequence) <= bare + slack
    assert np.array_equal(sequence.ids[-(bare - 1) :], codec.sequence(task, 10**6).ids[-(bare - 1) :])
    shown = codec.shown(task, bare + slack)
    assert np.array_equal(sequence.ids, codec.sequence(Task("t", task.train[len(task.train) - shown :], task.test), 10**6).ids)
    with pytest.raises(TooLong, match="a training example needs more"):
        codec.sequence(task, bare - 1)


# --- tokenizers


def as_text(task: Task) -> str:
    """The grid codec's layout, written by hand."""

    def rows(grid: Grid | None) -> str:
        assert grid is not None
        return "\n".join("".join(map(str, row)) for row in grid.tolist())

    pairs = "".join(f"<input>{rows(p.input)}<output>{rows(p.output)}<end>" for p in task.train)
    return f"<begin>{pairs}<input>{rows(task.test[0].input)}<output>"


@settings(deadline=None)
@given(task=tasks())
def test_the_grid_tokenizer_gives_the_codec_ids_and_the_text_back(task: Task) -> None:
    tokenizer = grid_tokenizer()
    ids = grid_codec().prompt(task, 0, 10**6).ids.tolist()
    assert tokenizer.encode(as_text(task), add_special_tokens=False).ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == as_text(task)


def test_the_grid_vocabulary_is_complete() -> None:
    tokenizer = grid_tokenizer()
    assert tokenizer.get_vocab_size() == len(GRID_VOCABULARY) == 16
    assert [tokenizer.token_to_id(token) for token in GRID_VOCABULARY] == list(range(16))


def test_the_text_codec_writes_what_the_tokenizer_reads(text_tokenizer: PreTrainedTokenizerFast) -> None:
    codec = text_codec(text_tokenizer)
    task = Task("t", (), (Pair(np.array([[1, 2], [3, 4]], np.uint8), np.array([[5]], np.uint8)),))
    ids = codec.sequence(task, 10**6).ids
    assert text_tokenizer.decode(ids) == "<s>Input:\n12\n34\nOutput:\n5</s>"
    assert codec.begin == (text_tokenizer.bos_token_id,)
    assert codec.end == text_tokenizer.eos_token_id
    assert codec.encode_grid(task.test[0].input).tolist() == text_tokenizer.encode("12\n34", add_special_tokens=False)


def word_level(words: list[str], **special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*words, "<unk>", *special.values()]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def test_tokenizers_that_split_a_digit_are_refused() -> None:
    spaced = Tokenizer(models.BPE({"#": 0, "Ġ": 1, "Ċ": 2, "1": 3, "</s>": 4}, [], unk_token="#"))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spaced.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])
    with pytest.raises(ValueError, match="splits '0' into 2 tokens"):
        text_codec(PreTrainedTokenizerFast(tokenizer_object=spaced, eos_token="</s>"))


def test_tokenizers_without_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="does not tell the ten digits apart"):
        text_codec(word_level(["a"], eos_token="</s>"))


def test_tokenizers_without_an_end_are_refused() -> None:
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        text_codec(word_level([*"0123456789"]))


def test_runs_of_digits_stay_single_cells_even_if_the_tokenizer_would_merge_them() -> None:
    merging = byte_level_tokenizer(split_digits=False)
    assert len(merging.encode("1212", add_special_tokens=False)) < 4
    codec = text_codec(merging)
    assert len(codec.encode_grid(np.array([[1, 2, 1, 2]], np.uint8))) == 4


# --- the text codec inside a text


WRITERS = {
    "byte-level": byte_level_tokenizer(),
    "byte-level, digits merged": byte_level_tokenizer(split_digits=False),
    "a space before every text": prefixing_tokenizer(),
    "a space before the first text": prefixing_tokenizer(before_every_text=False),
}


def as_plain_text(task: Task) -> str:
    """The layout of the text codec, written by hand."""

    def rows(grid: Grid | None) -> str:
        assert grid is not None
        return "\n".join("".join(map(str, row)) for row in grid.tolist())

    pairs = "".join(f"Input:\n{rows(p.input)}\nOutput:\n{rows(p.output)}</s>" for p in task.train)
    return f"<s>{pairs}Input:\n{rows(task.test[0].input)}\nOutput:\n"


def read_plain_text(text: str) -> list[list[str]]:
    """All grids of a text, row by row."""
    return [found.split("\n") for found in re.findall(r"(?:Input:|Output:)\n([0-9\n]*[0-9])", text)]


@pytest.mark.parametrize("tokenizer", WRITERS.values(), ids=WRITERS)
@given(task=tasks())
def test_what_the_text_codec_writes_is_the_text_and_survives_reading(tokenizer: PreTrainedTokenizerFast, task: Task) -> None:
    codec, text = text_codec(tokenizer), as_plain_text(task)
    ids = codec.prompt(task, 0, 10**6).ids.tolist()
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    read = tokenizer.encode(text, add_special_tokens=False)
    grids = [*(grid for pair in task.train for grid in (pair.input, pair.output)), task.test[0].input]
    expected = [["".join(map(str, row)) for row in grid.tolist()] for grid in grids if grid is not None]
    assert read_plain_text(tokenizer.decode(read, skip_special_tokens=False)) == expected == read_plain_text(text)


def test_a_space_before_texts_does_not_get_between_digits() -> None:
    tokenizer = prefixing_tokenizer()
    assert len(tokenizer.encode("0", add_special_tokens=False)) == 2
    codec = text_codec(tokenizer)
    assert (
        codec.encode_grid(np.array([[1, 2], [3, 4]], np.uint8)).tolist()
        == tokenizer.encode("12\n34", add_special_tokens=False)[1:]
    )


@pytest.mark.parametrize(
    "broken", ["digits change places", "line breaks become spaces", "letters are lowered", "digits get spaces"]
)
def test_tokenizers_that_do_not_give_back_what_is_written_are_refused(broken: str) -> None:
    tokenizer = byte_level_tokenizer()
    backend = tokenizer.backend_tokenizer
    plain = backend.decoder
    if broken == "letters are lowered":
        backend.normalizer = normalizers.Lowercase()
    else:
        old, new = {
            "digits change places": ("1", "2"),
            "line breaks become spaces": ("\n", " "),
            "digits get spaces": ("7", "7 "),
        }[broken]
        backend.decoder = decoders.Sequence([plain, decoders.Replace(old, new)])
    with pytest.raises(ValueError, match="does not come back from the tokenizer"):
        text_codec(tokenizer)
