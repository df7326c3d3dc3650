"""Task <-> token ids. The only module that knows how a task is written for a model.

Layout, the same for both codecs: `begin`, then per demonstration `input-marker grid output-marker grid end`, then the
query `input-marker grid output-marker`, which the answer `grid end` completes. Rows are joined by one separator token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.types import TokenIds, TokenSequence

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GRID_VOCABULARY = (*"0123456789", "<newline>", "<input>", "<output>", "<pad>", "<begin>", "<end>")
GRID_CODEC_VERSION = 1  # raise when the same task would give other ids
LONGEST_ANSWER = MAX_SIDE * (MAX_SIDE + 1)  # tokens of a 30x30 answer: cells, 29 separators, end


class TooLong(ValueError):
    """A query that does not fit the context even without demonstrations."""


@dataclass(frozen=True)
class GridGrammar:
    """The regular language of answers in token ids: rows of equal width, joined by `newline`, closed by `end`."""

    cells: tuple[int, ...]  # ids of the colours 0-9, in order
    newline: int
    end: int
    max_side: int = MAX_SIDE


@dataclass(frozen=True)
class Prompt:
    """A query as token ids; `dropped` demonstrations (the first ones shown) did not fit the context."""

    ids: TokenIds
    dropped: int


@dataclass(frozen=True)
class Codec:
    """How grids become token ids: one id a colour, and short id sequences for the markers between them."""

    name: str
    cells: tuple[int, ...]  # 10 ids
    newline: int
    end: int
    pad: int
    begin: tuple[int, ...]
    input_marker: tuple[int, ...]
    output_marker: tuple[int, ...]

    @property
    def grammar(self) -> GridGrammar:
        """The language of answers, for engines."""
        return GridGrammar(self.cells, self.newline, self.end)

    def encode_grid(self, grid: Grid) -> TokenIds:
        """(rows * (columns + 1) - 1,) ids: cells row by row, rows joined by the separator."""
        rows, columns = grid.shape
        ids = np.full((rows, columns + 1), self.newline, dtype=np.int32)
        ids[:, :columns] = np.asarray(self.cells, dtype=np.int32)[grid]
        return ids.reshape(-1)[:-1]

    def encode_answer(self, grid: Grid) -> TokenIds:
        """The ids a model has to give for `grid`: the grid, then `end`."""
        return np.append(self.encode_grid(grid), np.int32(self.end))

    def decode_answer(self, ids: Sequence[int] | TokenIds) -> Grid | None:
        """The grid of an answer that `end` closes, or None if the ids are not a grid of at most 30x30."""
        array = np.asarray(ids, dtype=np.int64)
        if not len(array) or array[-1] != self.end or len(array) > LONGEST_ANSWER:
            return None
        rows = [[self._colour.get(int(i)) for i in row] for row in _split(array[:-1], self.newline)]
        width = len(rows[0])
        if not 0 < width <= MAX_SIDE or len(rows) > MAX_SIDE or any(len(row) != width or None in row for row in rows):
            return None
        return np.array(rows, dtype=np.uint8)

    def prompt(self, task: Task, query: int, context: int, answer_room: int = LONGEST_ANSWER) -> Prompt:
        """The query `task.test[query]` behind as many demonstrations as fit `context` less `answer_room` tokens.

        Demonstrations are dropped from the front; cells never are. Raises TooLong if the query alone does not fit.
        """
        tail = self._input(task.test[query].input)
        pairs = [self._pair(pair) for pair in task.train]
        kept = _fit([len(pair) for pair in pairs], len(self.begin) + len(tail) + answer_room, context)
        if kept is None:
            raise TooLong(f"task {task.id}: test {query} needs {len(self.begin) + len(tail) + answer_room} of {context} tokens")
        ids = np.concatenate([self._begin, *pairs[len(pairs) - kept :], tail])
        return Prompt(ids, len(pairs) - kept)

    def sequence(self, task: Task, context: int, demonstrations: bool = True, answer: bool = True) -> TokenSequence:
        """A training sequence: the demonstrations, then every test pair of `task` (outputs known).

        Weight 1 on the outputs of the tests (`answer`) and of every demonstration after the first shown
        (`demonstrations`; the first cannot be inferred), `end` included; 0 elsewhere. Demonstrations are dropped from
        the front to fit `context`. Raises TooLong if the tests alone do not fit.
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
        """How many demonstrations, the last ones, `sequence` shows. Raises TooLong if the tests alone do not fit."""
        lengths = [self._pair_tokens(pair) for pair in task.train]
        kept = _fit(lengths, len(self.begin) + sum(map(self._pair_tokens, task.test)), context)
        if kept is None:
            raise TooLong(f"task {task.id}: a training example needs more than {context} tokens")
        return kept

    @staticmethod
    def answer_tokens(grid: Grid) -> int:
        """Length of `encode_answer(grid)`."""
        return int(grid.shape[0] * (grid.shape[1] + 1))

    def decode_prompt(self, ids: TokenIds) -> tuple[tuple[Pair, ...], Grid]:
        """The demonstrations and the query of an encoded prompt. Raises ValueError if `ids` is no prompt of this codec."""
        rest = self._strip(np.asarray(ids, dtype=np.int32), self.begin)
        pairs: list[Pair] = []
        while True:
            rest = self._strip(rest, self.input_marker)
            shown, rest = self._read_grid(rest)
            rest = self._strip(rest, self.output_marker)
            if not len(rest):
                return tuple(pairs), shown
            output, rest = self._read_grid(rest)
            rest = self._strip(rest, (self.end,))
            pairs.append(Pair(shown, output))

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """Every id that the codec writes, once each: the cells first, in order."""
        written = (*self.cells, self.newline, self.end, self.pad, *self.begin, *self.input_marker, *self.output_marker)
        return tuple(dict.fromkeys(written))

    def renumbered(self, ids: Mapping[int, int]) -> Codec:
        """The same codec for a vocabulary in which token i of this one has the id `ids[i]`."""

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
        return markers + self.answer_tokens(pair.input) - 1 + self.answer_tokens(pair.output)

    def _strip(self, ids: TokenIds, head: tuple[int, ...]) -> TokenIds:
        if tuple(ids[: len(head)]) != head:
            raise ValueError(f"expected the tokens {head}, found {tuple(ids[: len(head)])}")
        return ids[len(head) :]

    def _read_grid(self, ids: TokenIds) -> tuple[Grid, TokenIds]:
        inside = np.isin(ids, (*self.cells, self.newline))
        stop = len(ids) if inside.all() else int(np.argmin(inside))
        # an output marker may itself begin with the separator; a grid never ends with it
        while stop and ids[stop - 1] == self.newline:
            stop -= 1
        grid = self.decode_answer(np.append(ids[:stop], self.end))
        if grid is None:
            raise ValueError("not a grid")
        return grid, ids[stop:]


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


def grid_tokenizer() -> Tokenizer:
    """The same vocabulary as a `tokenizers.Tokenizer`; text form: digits, line breaks, and the markers by name."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(GRID_VOCABULARY)}, unk_token="<pad>"))
    tokenizer.add_special_tokens(list(GRID_VOCABULARY[COLOURS + 1 :]))
    tokenizer.normalizer = normalizers.Replace("\n", "<newline>")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\w+>|\d"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("<newline>", "\n"), decoders.Fuse()])
    return tokenizer


def text_codec(tokenizer: Any) -> Codec:
    """A codec for an ordinary Hugging Face tokenizer. Raises ValueError unless digits and line break are one token each."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    def single(text: str) -> int:
        found = ids(text)
        if len(found) != 1:
            raise ValueError(f"the tokenizer splits {text!r} into {len(found)} tokens; the text codec needs one")
        return found[0]

    cells = tuple(single(str(colour)) for colour in range(COLOURS))
    if len(set(cells)) != COLOURS:
        raise ValueError("the tokenizer does not tell the ten digits apart")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
    return Codec(
        name="text-1",
        cells=cells,
        newline=single("\n"),
        end=int(tokenizer.eos_token_id),
        pad=int(pad),
        begin=bos,
        input_marker=(*ids("Input:"), single("\n")),
        output_marker=(single("\n"), *ids("Output:"), single("\n")),
    )


def cut_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """A tokenizer of the tokens `kept` alone: token `kept[i]` of `tokenizer` has the id i.

    Bytes are tokens, and there are no merges: a longer token is an added one, found wherever its text stands. So it stays what it
    is in the hands of libraries that keep the vocabulary of a byte-level tokenizer and put their own rules around it.
    Raises ValueError if two of the tokens have the same text, or one has none.
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
    """The stretches between separators, at least one, empty ones included."""
    first, *others = np.split(ids, np.flatnonzero(ids == separator))
    return [first, *(part[1:] for part in others)]


def _fit(lengths: Sequence[int], fixed: int, context: int) -> int | None:
    """How many of the last stretches of so many tokens fit beside `fixed` others; None if not even none do."""
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
