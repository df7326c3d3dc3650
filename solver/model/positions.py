"""Where a token stands, as the rotary embedding of a model counts it: by its index, or by grid, row and column.

A position is a function of the ids before and at a token, so a sequence can be read in pieces: all that the ids read so far
have to say about the next one is the position of the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Positions(Protocol):
    """A way to count positions along one or more axes."""

    start: ClassVar[tuple[int, ...]]  # "position of the last token" before the first one; its length is the number of axes
    by_content: ClassVar[bool]  # whether positions depend on the ids; if not, they are the same in every row that begins alike

    def follow(self, ids: Tensor, last: Tensor) -> Tensor:
        """(rows, tokens, axes) int64 positions of `ids` (rows, tokens) after tokens whose last stands at `last` (rows, axes)."""
        ...


@dataclass(frozen=True)
class IndexPositions:
    """The index in the sequence: what ordinary language models use."""

    start: ClassVar[tuple[int, ...]] = (-1,)
    by_content: ClassVar[bool] = False

    def follow(self, ids: Tensor, last: Tensor) -> Tensor:
        """See `Positions`. The ids do not matter."""
        return (last[:, None] + torch.arange(1, ids.shape[1] + 1, device=last.device)[None, :, None]).expand(*ids.shape, 1)


@dataclass(frozen=True)
class CellPositions:
    """Grid, row and column of a token of the grid vocabulary.

    grid: the markers (`<input>`, `<output>`) so far, its own included; row: the separators since the last marker, its own
    included; column: the tokens since the last marker or separator, which themselves have column 0. So cells have columns
    from 1, a separator opens the row behind it, and `<end>` follows its last cell. The token that begins the sequence
    is (0, 0, 0).
    """

    markers: tuple[int, int]  # ids of <input> and <output>
    separator: int  # id of <newline>
    start: ClassVar[tuple[int, ...]] = (0, 0, -1)
    by_content: ClassVar[bool] = True

    def follow(self, ids: Tensor, last: Tensor) -> Tensor:
        """See `Positions`."""
        grid, row, column = last.unbind(-1)
        is_marker = (ids == self.markers[0]) | (ids == self.markers[1])
        is_separator = ids == self.separator
        if ids.shape[1] == 1:  # a decoding step
            new_line = is_marker | is_separator
            rows = torch.where(is_marker, 0, row[:, None] + is_separator)
            columns = torch.where(new_line, 0, column[:, None] + 1)
            return torch.stack([grid[:, None] + is_marker, rows, columns], -1)
        at = torch.arange(ids.shape[1], device=ids.device)[None]
        separators = is_separator.cumsum(1)
        # what to count from: the number of separators at the last marker, and the place of the last marker or separator
        first_row = torch.where(is_marker, separators, -row[:, None]).cummax(1).values
        line = torch.where(is_marker | is_separator, at, -1 - column[:, None]).cummax(1).values
        return torch.stack([grid[:, None] + is_marker.cumsum(1), separators - first_row, at - line], -1)


def positions_of(config: Any) -> Positions:
    """How the model of a transformers configuration counts positions."""
    markers = getattr(config, "marker_ids", None)
    return IndexPositions() if markers is None else CellPositions((markers[0], markers[1]), config.separator_id)


def from_start(positions: Positions, ids: Tensor) -> Tensor:
    """(rows, tokens, axes) positions of whole sequences `ids` (rows, tokens)."""
    start = torch.tensor(positions.start, device=ids.device)
    return positions.follow(ids, start.expand(len(ids), -1))


def rotation(rotary: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, tokens, 1, head size) cos, and sin with its first half negated, by a model's `rotary` embedding.

    With them y * cos + roll(y, half) * sin is the rotated y: roll(y, half) * sin == rotate_half(y) * sin as transformers has it.
    """
    cos, sin = rotary(x, for_model(positions))
    half = cos.shape[-1] // 2
    return cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]


def for_model(positions: Tensor) -> Tensor:
    """What the modules of a model take for positions (rows, tokens, axes): one axis is none."""
    return positions[..., 0] if positions.shape[-1] == 1 else positions
