"""Tasks <-> token ids. The only module that knows how a task is written for a model.

The layout is the same for both codecs: `begin`, then for each demonstration `input-marker grid output-marker grid end`, then the
query `input-marker grid output-marker`, which the answer `grid end` completes. One separator token stands between rows. In some
prompt formats it also stands after the last row of an output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.prompt_format import TEXT, Part, PromptFormat
from solver.types import TokenIds, TokenSequence

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GRID_VOCABULARY = (*"0123456789", "<newline>", "<input>", "<output>", "<pad>", "<begin>", "<end>")
GRID_CODEC_VERSION = 1  # increase it when the ids of a task change
LONGEST_ANSWER = MAX_SIDE * (MAX_SIDE + 1)  # tokens of a 30x30 answer: cells, 29 separators, end; see Codec.longest_answer


class TooLong(ValueError):
    """The tokens that cannot be left out do not fit the context."""


@dataclass(frozen=True)
class GridGrammar:
    """The regular language of answers in token ids: rows of equal width, joined by `newline`, closed by `end`."""

    cells: tuple[int, ...]  # ids of the colours 0-9, in order
    newline: int
    end: int
    max_side: int = MAX_SIDE
    closes_rows: bool = False  # whether `newline` follows the last row, too


@dataclass(frozen=True)
class Prompt:
    """A query as token ids. The first `dropped` demonstrations did not fit the context."""

    ids: TokenIds
    dropped: int


@dataclass(frozen=True)
class Codec:
    """How grids become token ids: one id for each colour, and short sequences of ids for the markers."""

    name: str
    cells: tuple[int, ...]  # 10 ids
    newline: int
    end: int
    pad: int
    begin: tuple[int, ...]
    input_marker: tuple[int, ...]
    output_marker: tuple[int, ...]
    closes_rows: bool = False  # whether `newline` follows the last row of an answer, too

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids after the grid of an answer."""
        return (self.newline, self.end) if self.closes_rows else (self.end,)

    @property
    def longest_answer(self) -> int:
        """The number of tokens of a 30x30 answer."""
        return LONGEST_ANSWER - 1 + len(self.closing)

    @property
    def grammar(self) -> GridGrammar:
        """The language of answers, for engines."""
        return GridGrammar(self.cells, self.newline, self.end, closes_rows=self.closes_rows)

    def encode_grid(self, grid: Grid) -> TokenIds:
        """(rows * (columns + 1) - 1,) ids: cells row by row, rows joined by the separator."""
        rows, columns = grid.shape
        ids = np.full((rows, columns + 1), self.newline, dtype=np.int32)
        ids[:, :columns] = np.asarray(self.cells, dtype=np.int32)[grid]
        return ids.reshape(-1)[:-1]

    def encode_answer(self, grid: Grid) -> TokenIds:
        """The ids with which a model answers `grid`: those of the grid, then `closing`."""
        return np.append(self.encode_grid(grid), np.asarray(self.closing, dtype=np.int32))

    def decode_answer(self, ids: Sequence[int] | TokenIds) -> Grid | None:
        """The grid of an answer, or None if the ids are not a grid of at most 30x30 followed by `closing`."""
        array = np.asarray(ids, dtype=np.int64)
        inside = len(array) - len(self.closing)
        if inside < 0 or tuple(array[inside:]) != self.closing or len(array) > self.longest_answer:
            return None
        rows = [[self._colour.get(int(i)) for i in row] for row in _split(array[:inside], self.newline)]
        width = len(rows[0])
        if not 0 < width <= MAX_SIDE or len(rows) > MAX_SIDE or any(len(row) != width or None in row for row in rows):
            return None
        return np.array(rows, dtype=np.uint8)

    def prompt(self, task: Task, query: int, context: int, answer_room: int | None = None) -> Prompt:
        """The query `task.test[query]` after as many demonstrations as fit `context` tokens, with room for the answer.

        `answer_room`: tokens; None: those of the longest answer. Whole demonstrations are left out, the first ones first. Raises
        TooLong if the query alone does not fit.
        """
        if answer_room is None:
            answer_room = self.longest_answer
        tail = self._input(task.test[query].input)
        pairs = [self._pair(pair) for pair in task.train]
        kept = _fit([len(pair) for pair in pairs], len(self.begin) + len(tail) + answer_room, context)
        if kept is None:
            raise TooLong(f"task {task.id}: test {query} needs {len(self.begin) + len(tail) + answer_room} of {context} tokens")
        ids = np.concatenate([self._begin, *pairs[len(pairs) - kept :], tail])
        return Prompt(ids, len(pairs) - kept)

    def sequence(self, task: Task, context: int, demonstrations: bool = True, answer: bool = True) -> TokenSequence:
        """A training sequence: the demonstrations, then every test pair of `task`, whose outputs must be known.

        Weights are 1 on the outputs of the tests if `answer`, and on those of the demonstrations if `demonstrations`, except the
        first one shown, which cannot be inferred. The ids of `closing` are part of an output. All other weights are 0. The first
        demonstrations are left out to fit `context`. Raises TooLong if the tests alone do not fit.
        """
        shown = task.train[len(task.train) - self.shown(task, context) :]
        pairs, tails = [self._pair(pair) for pair in shown], [self._pair(pair) for pair in task.test]
        ids = np.concatenate([self._begin, *pairs, *tails])
        weights = np.zeros(len(ids), dtype=np.float32)
        at = len(self.begin)
        for place, (pair, written) in enumerate(zip((*shown, *task.test), (*pairs, *tails), strict=True)):
            at += len(written)
            learnt = answer if place >= len(shown) else demonstrations and place > 0
            if learnt:
                assert pair.output is not None
                weights[at - self.answer_tokens(pair.output) : at] = 1.0
        return TokenSequence(ids, weights)

    def shown(self, task: Task, context: int) -> int:
        """How many demonstrations `sequence` shows; they are the last ones. Raises TooLong if the tests alone do not fit."""
        lengths = [self._pair_tokens(pair) for pair in task.train]
        kept = _fit(lengths, len(self.begin) + sum(map(self._pair_tokens, task.test)), context)
        if kept is None:
            raise TooLong(f"task {task.id}: a training example needs more than {context} tokens")
        return kept

    def answer_tokens(self, grid: Grid) -> int:
        """The length of `encode_answer(grid)`."""
        return int(grid.shape[0] * (grid.shape[1] + 1)) - 1 + len(self.closing)

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Every id that the codec writes, once; the cells come first, in order."""
        written = (*self.cells, self.newline, self.end, self.pad, *self.begin, *self.input_marker, *self.output_marker)
        return tuple(dict.fromkeys(written))

    def renumbered(self, ids: Mapping[int, int]) -> Codec:
        """The same codec for another vocabulary, in which token i has the id `ids[i]`."""

        def new(old: Sequence[int]) -> tuple[int, ...]:
            return tuple(ids[i] for i in old)

        return replace(
            self,
            cells=new(self.cells),
            newline=ids[self.newline],
            end=ids[self.end],
            pad=ids[self.pad],
            begin=new(self.begin),
            input_marker=new(self.input_marker),
            output_marker=new(self.output_marker),
        )

    @property
    def _colour(self) -> dict[int, int]:
        return {token: colour for colour, token in enumerate(self.cells)}

    @property
    def _begin(self) -> TokenIds:
        return np.asarray(self.begin, dtype=np.int32)

    def _input(self, grid: Grid) -> TokenIds:
        return np.concatenate([self.input_marker, self.encode_grid(grid), self.output_marker]).astype(np.int32)

    def _pair(self, pair: Pair) -> TokenIds:
        assert pair.output is not None
        return np.concatenate([self._input(pair.input), self.encode_answer(pair.output)])

    def _pair_tokens(self, pair: Pair) -> int:
        assert pair.output is not None
        markers = len(self.input_marker) + len(self.output_marker)
        return markers + self.answer_tokens(pair.input) - len(self.closing) + self.answer_tokens(pair.output)


def grid_codec() -> Codec:
    """The codec of the 16-token grid vocabulary."""
    at = {token: i for i, token in enumerate(GRID_VOCABULARY)}
    return Codec(
        name=f"grid-{GRID_CODEC_VERSION}",
        cells=tuple(range(COLOURS)),
        newline=at["<newline>"],
        end=at["<end>"],
        pad=at["<pad>"],
        begin=(at["<begin>"],),
        input_marker=(at["<input>"],),
        output_marker=(at["<output>"],),
    )


def text_only_codec(end: int, pad: int) -> Codec:
    """A codec for a model that writes text and no grids. Trainers and engines without the grammar need no more than these ids."""
    return Codec("text-only", (), -1, end, pad, (), (), ())


def grid_tokenizer() -> Tokenizer:
    """The grid vocabulary as a `tokenizers.Tokenizer`. Its text form is digits, line breaks, and the markers by name."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(GRID_VOCABULARY)}, unk_token="<pad>"))
    tokenizer.add_special_tokens(list(GRID_VOCABULARY[COLOURS + 1 :]))
    tokenizer.normalizer = normalizers.Replace("\n", "<newline>")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\w+>|\d"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("<newline>", "\n"), decoders.Fuse()])
    return tokenizer


def text_codec(tokenizer: Any, format: PromptFormat = TEXT) -> Codec:
    """A codec for an ordinary Hugging Face tokenizer, in the prompt format that the model was trained with, or the text format.

    Each part of the format gets the ids that it has inside a text, because some tokenizers add a space at the beginning.
    The tokenizer has to decode what the codec writes to the text that the format says. Raises ValueError if it does not, and if
    colours, row separator and end are not one token each.
    """
    special = {"{bos}": tokenizer.bos_token_id, "{eos}": tokenizer.eos_token_id}

    def ids(parts: Sequence[Part]) -> tuple[int, ...]:
        written: list[int] = []
        for part in _pieces(parts):
            if isinstance(part, int):
                written.append(part)
            elif part == "{eos}" and special[part] is None:
                raise ValueError("the tokenizer has no end-of-sequence token")
            elif part in special:
                written += [] if special[part] is None else [int(special[part])]
            else:
                written += _inside(tokenizer, part)
        return tuple(written)

    def single(*parts: Part) -> int:
        written = ids(parts)
        if len(written) != 1:
            raise ValueError(
                f"the tokenizer splits {''.join(map(str, parts))!r} into {len(written)} tokens; the text codec needs one"
            )
        return written[0]

    if len(format.cells) != COLOURS:
        raise ValueError(f"the format {format.name} has {len(format.cells)} colours, not {COLOURS}")
    cells, newline, closing = tuple(map(single, format.cells)), single(*format.row), ids(format.end)
    if len(set(cells)) != COLOURS:
        raise ValueError("the tokenizer does not tell the ten digits apart")
    if len(closing) > 2 or closing[:-1] not in ((), (newline,)):
        raise ValueError(f"an answer ends with {len(closing)} tokens; it has to be one, or the row separator and one")
    if not closing or {newline, closing[-1]} & set(cells) or newline == closing[-1]:
        raise ValueError("the tokenizer does not tell digits, row separator and end apart")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else closing[-1]
    codec = Codec(
        name=f"{format.name}-1",
        cells=cells,
        newline=newline,
        end=closing[-1],
        pad=single(*format.pad) if format.pad else int(pad),
        begin=ids(format.begin),
        input_marker=ids(format.input),
        output_marker=ids(format.output),
        closes_rows=len(closing) == 2,
    )
    _prove(codec, tokenizer, format)
    return codec


def _pieces(parts: Sequence[Part]) -> Iterator[Part]:
    """The parts of a format, with `{bos}` and `{eos}` as pieces of their own."""
    for part in parts:
        if isinstance(part, int):
            yield part
        else:
            yield from (piece for piece in re.split(r"({bos}|{eos})", part) if piece)


def _inside(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` in the middle of a text. Raises ValueError if the tokenizer merges it with what is before it."""
    why = ValueError(f"the tokenizer joins {text!r} with what stands before it")
    for before in ("\n", "0"):
        try:
            head, whole = (tokenizer.encode(shown, add_special_tokens=False) for shown in (before, before + text))
        # tokenizers raises a plain Exception for a text that a small vocabulary has no token for
        except Exception as error:
            why = ValueError(f"the tokenizer has no tokens for {text!r}: {error}")
            continue
        if whole[: len(head)] == head:
            return list(whole[len(head) :])
    raise why


def _prove(codec: Codec, tokenizer: Any, format: PromptFormat) -> None:
    """Raises ValueError unless a whole task decodes to the text that it was written from.

    In its grids every colour stands beside every other one, and at both ends of rows.
    """
    first = np.arange(COLOURS, dtype=np.uint8)
    meeting = np.stack([np.repeat(first[:, None], COLOURS, 1), np.tile(first, (COLOURS, 1))], -1).reshape(COLOURS, -1)
    pair = Pair(meeting, np.ascontiguousarray(meeting.T))
    ids = codec.sequence(Task("proof", (pair,), (pair,)), 10**6).ids

    def text(parts: Sequence[Part]) -> str:
        texts = {"{bos}": tokenizer.bos_token or "", "{eos}": tokenizer.eos_token or ""}
        return "".join(tokenizer.decode([part]) if isinstance(part, int) else texts.get(part, part) for part in _pieces(parts))

    def rows(grid: Grid) -> str:
        return text(format.row).join("".join(text(format.cells[colour : colour + 1]) for colour in row) for row in grid.tolist())

    assert pair.output is not None
    shown = text(format.input) + rows(pair.input) + text(format.output) + rows(pair.output) + text(format.end)
    expected = text(format.begin) + 2 * shown
    decoded = tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.decoder is None:  # such tokenizers put spaces between all tokens: compare without spaces
        expected, decoded = expected.replace(" ", ""), decoded.replace(" ", "")
    if decoded != expected:
        shorter = min(len(expected), len(decoded))
        at = next((n for n, (a, b) in enumerate(zip(expected, decoded, strict=False)) if a != b), shorter)
        raise ValueError(
            f"what is written in the format {format.name} does not come back from the tokenizer: it decodes to "
            f"{decoded[at : at + 12]!r} instead of {expected[at : at + 12]!r}"
        )


def cut_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """A tokenizer that has only the tokens `kept`: token `kept[i]` of `tokenizer` gets the id i.

    It works on bytes and has no merges. Tokens of several characters are added tokens, which are matched wherever their text
    occurs. So it behaves the same in libraries that take the vocabulary of a byte-level tokenizer and apply their own rules.
    Raises ValueError if two of the tokens have the same text, or one has no text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    roles = ("bos_token", "eos_token", "pad_token")
    special = {role: getattr(tokenizer, role) for role in roles if getattr(tokenizer, f"{role}_id") in kept}
    special.setdefault("pad_token", special["eos_token"])
    names = {tokenizer.convert_tokens_to_ids(name): name for name in special.values()}
    texts = [names.get(id_) or tokenizer.decode([id_]) for id_ in kept]
    if len(set(texts)) < len(texts) or not all(texts):
        raise ValueError("the tokenizer has no text of its own for each of the tokens that grids use")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    written = [text if len(text) > 1 else by_bytes.pre_tokenize_str(text)[0][0] for text in texts]
    cut = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(written)}, merges=[]))
    cut.pre_tokenizer, cut.decoder = by_bytes, decoders.ByteLevel()
    cut.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names.values()])
    words = [text for text in texts if len(text) > 1 and text not in names.values()]
    cut.add_tokens([AddedToken(word, normalized=False) for word in words])
    special["unk_token"] = special["pad_token"]
    return PreTrainedTokenizerFast(tokenizer_object=cut, clean_up_tokenization_spaces=False, **special)


def _split(ids: Any, separator: int) -> list[Any]:
    """The parts between the separators, empty ones included; one part if there is no separator."""
    first, *others = np.split(ids, np.flatnonzero(ids == separator))
    return [first, *(part[1:] for part in others)]


def _fit(lengths: Sequence[int], fixed: int, context: int) -> int | None:
    """How many of the last parts, of `lengths` tokens each, fit `context` beside `fixed` tokens; None if those do not fit."""
    room = context - fixed
    if room < 0:
        return None
    kept = 0
    for length in reversed(lengths):
        room -= length
        if room < 0:
            break
        kept += 1
    return kept
