"""Texts as token ids of any tokenizer, for models that write text instead of grids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from solver.model.load import text_only_codec_of
from solver.types import TokenIds

_INSIDE = "="  # stands before a token whose text is asked for, because at the beginning of a text tokenizers add or drop a space


class TextTokenizer:
    """Writes texts as token ids and reads texts from them."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        """`tokenizer` is a tokenizer of transformers; `source` names it in errors. Raises InputError if it has no end token."""
        self._tokenizer = tokenizer
        self.codec = text_only_codec_of(tokenizer, source)  # what trainers and engines need to know
        self.end, self.pad = self.codec.end, self.codec.pad
        self.begin = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
        self._inside = self.encode(_INSIDE)
        self.piece = lru_cache(maxsize=None)(self._piece)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without `begin` and `end`."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int] | TokenIds) -> str:
        """The text of ids without the end token."""
        return self._decode([int(id_) for id_ in ids if id_ != self.end])

    def _piece(self, id_: int) -> str:
        """The text that a token adds inside a text. Tokenizers may drop a space at the beginning of a text."""
        return self._decode([*self._inside, id_]).removeprefix(self._decode(self._inside))

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
