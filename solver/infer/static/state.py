"""What a static batch keeps on the device: keys and values, and the unfinished and finished completions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solver.infer.grammar import STATE
from solver.infer.static.one_token_pass import KeysValues, OneTokenPass
from solver.infer.static.shapes import BatchShape

UNREAD = 8  # columns that are allocated after the last one; kernels of attention want multiples of this


class BatchState:
    """Tensors of fixed shapes. A step changes them in place.

    All live rows of a slot have the same number of new tokens, because they start together. A slot's columns of keys and values
    are its prompt, then the new tokens of its rows in the order in which they were computed. `visible` says which of them a row
    continues. So a row that branches needs no copy of keys and values: the new row sees the same columns. Rows that are not live
    write to the column after the last one, which is never read, so that nothing of theirs can reach other rows, not even NaN.

    Finished completions are records of a row's last token; the tokens before it are in `history`.
    """

    def __init__(self, shape: BatchShape, model: OneTokenPass, choices: int, axes: int, device: torch.device) -> None:
        slots, width = shape.slots, shape.width

        def zeros(*sizes: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(sizes, dtype=dtype, device=device)

        self.unread = shape.columns  # the column for rows that are not live
        columns = shape.columns + UNREAD
        buffer = (slots, model.heads, columns, model.head_size)
        # zeros, because what is hidden gets a weight of 0, and uninitialised memory may hold NaN: 0 * NaN is NaN
        self.kv: KeysValues = [
            (zeros(*buffer, dtype=model.dtype), zeros(*buffer, dtype=model.dtype)) for _ in range(model.layers)
        ]
        self.shape = shape
        # requests, by slot
        self.prompt = zeros(slots)  # tokens of the prompt
        self.limit = zeros(slots)  # new tokens of a row, at most
        self.temperature = zeros(slots, 1, dtype=torch.float64)
        self.threshold = zeros(slots, 1, dtype=torch.float64)  # of a search: log-probability, nats
        self.keys = zeros(slots, width)  # of the random numbers of each row, as signed numbers
        # progress, by slot
        self.length = zeros(slots)  # new tokens of every live row
        self.used = zeros(slots)  # columns after the prompt
        self.broken = zeros(slots, dtype=torch.bool)  # the model gave NaN
        self.crowded = zeros(slots, dtype=torch.bool)  # there was no room for all rows or columns; nothing of the slot counts
        # rows
        self.live = zeros(slots, width, dtype=torch.bool)
        self.total = zeros(slots, width, dtype=torch.float64)  # log-probability of the new tokens, nats
        self.grammar = zeros(STATE, slots, width)
        self.last = zeros(slots, width, axes)  # position of the newest token
        self.choices = zeros(slots, width, choices, dtype=torch.float32)  # log-probabilities of the next token
        self.visible = zeros(slots, width, columns, dtype=torch.bool)
        # tokens by place: the row that was continued, the token, its log-probability
        self.history = History(
            zeros(slots, shape.tokens, width, dtype=torch.int16),
            zeros(slots, shape.tokens, width, dtype=torch.int32),
            zeros(slots, shape.tokens, width, dtype=torch.float32),
        )
        # finished completions, with one entry to spare: the row before its last token, that token, its log-probability, its place
        spare = shape.completions + 1
        self.done = History(
            zeros(slots, spare, dtype=torch.int16),
            zeros(slots, spare, dtype=torch.int32),
            zeros(slots, spare, dtype=torch.float32),
        )
        self.done_place = zeros(slots, spare)
        self.done_count = zeros(slots)
        # constants
        self.slot_index = torch.arange(slots, device=device)[:, None]
        self.row_index = torch.arange(width, device=device)[None].expand(slots, width).contiguous()
        self.candidate_index = torch.arange(width * choices, device=device)[None].expand(slots, -1).contiguous()

    def report(self) -> Tensor:
        """(6, slots) int64, what the host looks at: live rows, finished completions, broken, crowded, length, columns used."""
        flags = [self.live.sum(1), self.done_count, self.broken.long(), self.crowded.long(), self.length, self.used]
        return torch.stack(flags)


@dataclass(frozen=True, eq=False)
class History:
    """Chosen tokens: the row that each continues, its id, its log-probability. All of one shape."""

    parent: Tensor  # int16
    token: Tensor  # int32
    logprob: Tensor  # float32
