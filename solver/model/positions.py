"""The positions of tokens for a model's rotary embedding: the index in the sequence, or grid, row and column.

The position of a token follows from its id and the position of the token before it. So a sequence can be read in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class Positions(Protocol):
    """A way to count positions along one or more axes."""

    start: ClassVar[tuple[int, ...]]  # the position that counts as the last one before the first token; one number an axis
    by_content: ClassVar[bool]  # whether positions depend on the ids

    def follow(self, ids: Tensor, last: Tensor) -> Tensor:
        """Positions (rows, tokens, axes) int64 of `ids` (rows, tokens) after a token with the position `last` (rows, axes)."""
        ...


@dataclass(frozen=True)
class IndexPositions:
    """The index in the sequence, as in ordinary language models."""

    start: ClassVar[tuple[int, ...]] = (-1,)
    by_content: ClassVar[bool] = False

    def follow(self, ids: Tensor, last: Tensor) -> Tensor:
        """See `Positions`. Only the shape of the ids matters."""
        return (last[:, None] + torch.arange(1, ids.shape[1] + 1, device=last.device)[None, :, None]).expand(*ids.shape, 1)


@dataclass(frozen=True)
class CellPositions:
    """Grid, row and column of a token of the grid vocabulary.

    - grid: the number of markers (`<input>`, `<output>`) up to and including the token.
    - row: the number of separators since the last marker, including the token itself.
    - column: the number of tokens since the last marker or separator. Markers and separators have column 0.

    So the columns of cells begin at 1, a separator belongs to the row after it, and `<end>` has the column after the last cell.
    The first token of the sequence is at (0, 0, 0).
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
        # what to count from: the number of separators up to the last marker, and the index of the last marker or separator
        first_row = torch.where(is_marker, separators, -row[:, None]).cummax(1).values
        line = torch.where(is_marker | is_separator, at, -1 - column[:, None]).cummax(1).values
        return torch.stack([grid[:, None] + is_marker.cumsum(1), separators - first_row, at - line], -1)


def positions_of(config: Any) -> Positions:
    """The positions of a model with this transformers configuration."""
    markers = getattr(config, "marker_ids", None)
    return IndexPositions() if markers is None else CellPositions((markers[0], markers[1]), config.separator_id)


def from_start(positions: Positions, ids: Tensor) -> Tensor:
    """Positions (rows, tokens, axes) of whole sequences `ids` (rows, tokens)."""
    # filled on the device: a copy from the host would wait for it
    start = torch.stack([torch.full_like(ids[:, 0], place, dtype=torch.long) for place in positions.start], -1)
    return positions.follow(ids, start)


def rotation(rotary: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos, and sin with its first half negated, (rows, tokens, 1, head size) each, from a model's `rotary` module.

    The rotated y is y * cos + roll(y, half) * sin, which is y * cos + rotate_half(y) * sin with the sin of transformers.
    """
    cos, sin = rotary(x, for_model(positions))
    half = cos.shape[-1] // 2
    return cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]


def for_model(positions: Tensor) -> Tensor:
    """Positions (rows, tokens, axes) as the modules of a model take them: without the last dimension if there is one axis."""
    return positions[..., 0] if positions.shape[-1] == 1 else positions
