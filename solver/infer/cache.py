"""A key/value cache in which many rows continue few prompts. Every prompt is stored once, however many rows continue it.

Every layer has two buffers: `prefix` holds one prompt per slot, `suffix` the new tokens of one completion per row. The query of a
row attends to the prompt in its slot, which is read once for all rows of the slot, and to the row's own suffix. Rows have no
gaps: the last rows move to the places of those that leave, so nothing is computed for finished completions. Buffers grow in
blocks, and a step writes its columns in place.

The models of this package write to it and read it by `update` and `attend`; for those of transformers see `infer.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PREFIX_BLOCK = 32  # columns
SUFFIX_BLOCK = 64  # columns
ROW_BLOCK = 4

# Costs of attention in one layer. The unit is one product of a query with a key, as measured on a CPU with heads of size 64. On
# CUDA launching kernels costs most, so there all slots form one group.
COLUMN_COST = 6  # the cost of reading one more column of the prompt of a slot
GROUP_COST = {"cpu": 20000, "cuda": 1 << 60}  # the cost of one more group of slots
MAX_PRODUCTS = {"cpu": 1 << 20, "cuda": 1 << 60}  # in one group, so that its scores stay in the processor's cache

Index = NDArray[np.int64]


def positions(slots: int, prefix: int, rows: int, suffix: int) -> int:
    """The number of key/value positions (per layer) that a cache allocates for this many slots, rows and columns."""
    return slots * _up(prefix, PREFIX_BLOCK) + _up(rows, ROW_BLOCK) * _up(suffix, SUFFIX_BLOCK)


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """The keys and values of a prompt."""

    kv: list[tuple[Tensor, Tensor]]  # keys and values by layer, (heads, tokens, head size)
    last: Index  # (axes,) position of its last token

    @property
    def tokens(self) -> int:
        """The number of tokens of the prompt."""
        return int(self.kv[0][0].shape[1])


@dataclass
class _Layer:
    prefix: tuple[Tensor, Tensor]  # keys and values, (slots, heads, tokens, head size)
    suffix: tuple[Tensor, Tensor]  # keys and values, (rows, heads, tokens, head size)


@dataclass(frozen=True)
class _PrefillPlan:
    """A pass that writes prompts into the slots `first`, `first + 1`, ..."""

    first: int


@dataclass(frozen=True)
class _SlotGroup:
    """Neighbouring slots, and the rows that continue their prompts. They are computed by one attention call."""

    slots: slice
    prefix: int  # columns to read of the prompts
    rows: slice | Tensor  # indices of the rows among those of the pass
    width: int  # the largest number of rows in one slot
    gather: Tensor | None  # (slots * width,) indices into `rows`, sorted by slot and padded. None: row i continues slot i
    place: Tensor | None  # (rows,) where each of `rows` stands in `gather`
    hidden: Tensor | None  # (rows, 1, 1, new, prefix + suffix) bool: positions that a query must not see. None: it sees all


@dataclass(frozen=True)
class _ExtendPlan:
    """A pass that appends tokens to the rows from `first` on."""

    first: int
    rows: int
    suffix: int  # columns to read, including the new ones
    write: slice | tuple[Tensor, Tensor]  # the new columns: one range for all rows, or (row, column) indices
    groups: tuple[_SlotGroup, ...]


class SharedPrefixCache:
    """Keys and values of `slots` prompts and of `rows` continuations of them."""

    def __init__(self, device: torch.device, limit: int) -> None:
        """Room that becomes free is kept for later contents unless more than `limit` positions are allocated."""
        self.limit = limit
        self.device = device
        self.slots = 0
        self.rows = 0
        self.prefix_len: Index = np.zeros(0, dtype=np.int64)  # (slots,)
        self.suffix_len: Index = np.zeros(0, dtype=np.int64)  # (rows,)
        self.slot_of: Index = np.zeros(0, dtype=np.int64)  # (rows,)
        self.adapter_of: Index = np.zeros(0, dtype=np.int64)  # (slots,) number of the adapter the prompt was read with
        self.prefix_last: Index = np.zeros((0, 1), dtype=np.int64)  # (slots, axes) position of each prompt's last token
        self.last: Index = np.zeros((0, 1), dtype=np.int64)  # (rows, axes) position of each row's last token
        self._kv: list[_Layer] = []
        self._capacity = (0, 0, 0, 0)  # slots, prefix columns, rows, suffix columns
        self._plan: _PrefillPlan | _ExtendPlan | None = None

    # -- bookkeeping ---------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop all contents and free the memory."""
        self.slots = self.rows = 0
        for name in ("prefix_len", "suffix_len", "slot_of", "adapter_of"):
            setattr(self, name, np.zeros(0, dtype=np.int64))
        self.prefix_last, self.last = self.prefix_last[:0], self.last[:0]
        self._kv.clear()
        self._capacity = (0, 0, 0, 0)
        self._plan = None

    def used(self) -> int:
        """The positions that the present contents need."""
        return positions(self.slots, self.longest_prefix, self.rows, self.longest_suffix)

    @property
    def longest_prefix(self) -> int:
        """The number of tokens of the longest prompt."""
        return int(self.prefix_len.max(initial=0))

    @property
    def longest_suffix(self) -> int:
        """The number of tokens of the longest suffix."""
        return int(self.suffix_len.max(initial=0))

    def add_rows(self, slots: Index) -> None:
        """Append one empty row for each of `slots`."""
        self.slot_of = np.append(self.slot_of, slots)
        self.suffix_len = np.append(self.suffix_len, np.zeros(len(slots), dtype=np.int64))
        self.last = np.concatenate([self.last, self.prefix_last[slots]]) if self.rows else self.prefix_last[slots]
        self.rows += len(slots)
        self._reserve()

    def set_rows(self, sources: Index) -> None:
        """Replace row i by row `sources[i]`, for all i. Rows that stay in place cost nothing."""
        count, lengths = len(sources), self.suffix_len[sources]
        self.suffix_len = np.minimum(self.suffix_len, lengths.max(initial=0))
        self.rows = max(self.rows, count)
        self._reserve()
        moved = np.flatnonzero(sources != np.arange(count))
        self._copy("suffix", moved, sources[moved], int(lengths[moved].max(initial=0)))
        self.rows, self.slot_of, self.suffix_len, self.last = count, self.slot_of[sources], lengths, self.last[sources]

    def remove_slots(self, dropped: Index) -> tuple[Index, Index]:
        """Drop the prompts in the slots `dropped`, which no row may use.

        Returns (holes, movers): slot `movers[i]` has moved to slot `holes[i]`.
        """
        holes, movers = compaction(self.slots, dropped)
        self._copy("prefix", holes, movers, self.longest_prefix)
        of_slots = (self.prefix_len, self.adapter_of, self.prefix_last)
        for array in of_slots:
            array[holes] = array[movers]
        for hole, mover in zip(holes, movers, strict=True):
            self.slot_of[self.slot_of == mover] = hole
        self.slots -= len(dropped)
        self.prefix_len, self.adapter_of, self.prefix_last = (array[: self.slots].copy() for array in of_slots)
        return holes, movers

    # -- one forward pass ----------------------------------------------------------------------------------------------

    def begin_prefill(self, lengths: Index, adapters: Index, last: Index) -> None:
        """Prepare for a forward pass over prompts of these lengths, padded on the right; each gets a new slot.

        `adapters` are the numbers of their adapters, and `last`, (prompts, axes), the positions of their last tokens.
        """
        first = self.slots
        self.prefix_last = np.concatenate([self.prefix_last, last]) if first else last
        self.slots += len(lengths)
        self.prefix_len = np.append(self.prefix_len, lengths)
        self.adapter_of = np.append(self.adapter_of, adapters)
        self._reserve()
        self._plan = _PrefillPlan(first)

    def prompt(self, slot: int) -> CachedPrompt:
        """A copy of the prompt in a slot."""
        length = int(self.prefix_len[slot])
        kept = [
            (keys[slot, :, :length].clone(), values[slot, :, :length].clone()) for keys, values in (kv.prefix for kv in self._kv)
        ]
        return CachedPrompt(kept, self.prefix_last[slot].copy())

    def prefixes(self) -> list[tuple[Tensor, Tensor]]:
        """The keys and values of the prompts in all slots, by layer, (slots, heads, tokens, head size) each, not copied."""
        return [layer.prefix for layer in self._kv]

    def add_prompt(self, prompt: CachedPrompt, adapter: int) -> None:
        """Write a prompt that was computed before with this adapter into a new slot."""
        self.begin_prefill(np.array([prompt.tokens]), np.array([adapter]), prompt.last[None])
        for layer, (keys, values) in enumerate(prompt.kv):
            self.update(keys[None], values[None], layer)

    def begin_extend(self, first: int, new: int) -> None:
        """Prepare for a forward pass that appends `new` tokens to each row from `first` on."""
        slot_of, lengths = self.slot_of[first:], self.suffix_len[first:]
        rows, longest = len(slot_of), int(lengths.max())
        self._reserve(new)
        columns = lengths[:, None] + np.arange(new)
        uniform = bool((lengths == longest).all())
        write: slice | tuple[Tensor, Tensor] = slice(longest, longest + new)
        if not uniform:
            write = self._tensor(np.arange(first, first + rows)[:, None]), self._tensor(columns)
        groups = tuple(self._group(first, last, slot_of, columns) for first, last in self._ranges(slot_of, new))
        self._plan = _ExtendPlan(first, rows, longest + new, write, groups)

    def _ranges(self, slot_of: Index, new: int) -> list[tuple[int, int]]:
        """Ranges of slots to compute together. Neighbours are joined where their padding costs less than another group."""
        counts = np.bincount(slot_of)
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        ranges: list[tuple[int, int]] = []
        widest = longest = cost = 0  # of the last range
        for slot in np.flatnonzero(counts).tolist():
            width, length = int(counts[slot]) * new, int(self.prefix_len[slot])
            alone = length * (COLUMN_COST + width) + GROUP_COST[kind]
            if ranges:
                first = ranges[-1][0]
                wider, longer = max(widest, width), max(longest, length)
                products = (slot + 1 - first) * longer * wider
                joined = (slot + 1 - first) * longer * (COLUMN_COST + wider) + GROUP_COST[kind]
                if joined <= cost + alone and products <= MAX_PRODUCTS[kind]:
                    ranges[-1], widest, longest, cost = (first, slot + 1), wider, longer, joined
                    continue
            ranges.append((slot, slot + 1))
            widest, longest, cost = width, length, alone
        return ranges

    def _group(self, first: int, last: int, slot_of: Index, columns: Index) -> _SlotGroup:
        """The group of the slots `first` to `last - 1`.

        `columns`, (rows, new), are the columns of the suffix into which the pass writes the tokens of all its rows.
        """
        chosen = np.flatnonzero((slot_of >= first) & (slot_of < last))
        together = chosen[-1] - chosen[0] + 1 == len(chosen)
        rows = slice(int(chosen[0]), int(chosen[-1]) + 1) if together else self._tensor(chosen)
        width, gather, place = by_slot(slot_of[chosen] - first, last - first)
        aligned = np.array_equal(gather, np.arange(len(chosen)))
        prompts, own = self.prefix_len[slot_of[chosen]], columns[chosen]
        prefix, suffix = int(prompts.max()), int(columns.max()) + 1
        hidden = None
        if own.shape[1] > 1 or (own + 1 < suffix).any() or (prompts < prefix).any():
            unread = torch.arange(prefix, device=self.device) >= self._tensor(prompts)[:, None, None]
            later = torch.arange(suffix, device=self.device) > self._tensor(own)[:, :, None]
            hidden = torch.cat([unread.expand(-1, own.shape[1], -1), later], -1)[:, None, None]
        return _SlotGroup(
            slots=slice(first, last),
            prefix=prefix,
            rows=rows,
            width=width,
            gather=None if aligned and width == 1 else self._tensor(gather),
            place=None if aligned and width == 1 else self._tensor(place),
            hidden=hidden,
        )

    def end_extend(self, first: int, new: int, last: Index) -> None:
        """After the pass: the rows from `first` on have `new` more tokens; `last`, (rows, axes), are their last positions."""
        self.suffix_len[first:] += new
        self.last[first:] = last

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write new keys and values, (batch, heads, new, head size), where the plan says. Called by the model's layers."""
        while len(self._kv) <= layer_idx:
            self._kv.append(self._allocate(key_states))
        layer, plan = self._kv[layer_idx], self._plan
        new = key_states.shape[2]
        for new_states, prefix, suffix in zip((key_states, value_states), layer.prefix, layer.suffix, strict=True):
            if isinstance(plan, _PrefillPlan):
                prefix[plan.first : plan.first + len(new_states), :, :new] = new_states
            elif isinstance(plan, _ExtendPlan):
                if isinstance(plan.write, slice):
                    suffix[plan.first : plan.first + plan.rows, :, plan.write] = new_states
                else:
                    rows, columns = plan.write
                    suffix[rows, :, columns] = new_states.transpose(1, 2)
        return key_states, value_states

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, layer_idx: int, scaling: float, columns: Tensor | None = None
    ) -> Tensor:
        """Attention of the queries, (batch, query heads, new, head size), to what the plan of the pass lets each see; same shape.

        In a prefill, `columns` are the places of the queries in their prompts; None: there is a query for every place.
        """
        plan = self._plan
        if isinstance(plan, _PrefillPlan) and columns is not None:
            seen = torch.arange(key.shape[2], device=key.device) <= columns[:, None]
            return torch.nn.functional.scaled_dot_product_attention(
                query, *_repeat(query, key, value), attn_mask=seen, scale=scaling
            )
        if isinstance(plan, _PrefillPlan):
            # padding on the right needs no mask: a token sees only what stands before it
            return torch.nn.functional.scaled_dot_product_attention(
                query, *_repeat(query, key, value), is_causal=True, scale=scaling
            )
        assert plan is not None
        layer = self._kv[layer_idx]
        rows, query_heads, new, size = query.shape
        heads = layer.suffix[0].shape[1]
        groups = query_heads // heads
        grouped = (query * scaling).reshape(rows, heads, groups * new, size)

        own_key, own_value = (s[plan.first : plan.first + rows, :, : plan.suffix] for s in layer.suffix)
        out = grouped.new_empty(grouped.shape) if len(plan.groups) > 1 else None
        for group in plan.groups:
            prompt_key, prompt_value = (p[group.slots, :, : group.prefix] for p in layer.prefix)
            asked = grouped[group.rows]
            shared = _to_rows(_to_slots(asked, group) @ prompt_key.mT, group)
            scores = torch.cat([shared, asked @ own_key[group.rows].mT], -1)
            if group.hidden is not None:
                scores.view(len(asked), heads, groups, new, -1).masked_fill_(group.hidden, -torch.inf)
            weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
            seen = weights[..., group.prefix :] @ own_value[group.rows]
            seen += _to_rows(_to_slots(weights[..., : group.prefix], group) @ prompt_value, group)
            if out is None:  # there is one group, which has all rows in order
                return seen.view(rows, query_heads, new, size)
            out[group.rows] = seen
        assert out is not None
        return out.view(rows, query_heads, new, size)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _reserve(self, new: int = 0) -> None:
        """Make room for the present contents and `new` more tokens per row."""
        need = (
            self.slots,
            _up(self.longest_prefix, PREFIX_BLOCK),
            _up(self.rows, ROW_BLOCK),
            _up(self.longest_suffix + new, SUFFIX_BLOCK) if self.rows else 0,
        )
        have = self._capacity
        prefix, suffix = _grown(have[:2], need[:2]), _grown(have[2:], need[2:])
        if prefix[0] * prefix[1] + suffix[0] * suffix[1] > self.limit:
            prefix, suffix = need[:2], need[2:]
        self._capacity = (*prefix, *suffix)
        for layer in self._kv:
            if prefix != have[:2]:
                layer.prefix = (_resized(layer.prefix[0], *prefix), _resized(layer.prefix[1], *prefix))
            if suffix != have[2:]:
                layer.suffix = (_resized(layer.suffix[0], *suffix), _resized(layer.suffix[1], *suffix))

    def _allocate(self, like: Tensor) -> _Layer:
        _, heads, _, size = like.shape
        slots, prefix, rows, suffix = self._capacity
        # zeros, because hidden columns are multiplied by a weight of 0, and uninitialised memory may hold NaN: 0 * NaN is NaN
        return _Layer(
            (like.new_zeros(slots, heads, prefix, size), like.new_zeros(slots, heads, prefix, size)),
            (like.new_zeros(rows, heads, suffix, size), like.new_zeros(rows, heads, suffix, size)),
        )

    def _copy(self, part: str, to: Index, source: Index, columns: int) -> None:
        if not len(to) or not columns:
            return
        target, origin = self._tensor(to), self._tensor(source)
        for layer in self._kv:
            for tensor in getattr(layer, part):
                tensor[target, :, :columns] = tensor[origin, :, :columns]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def compaction(count: int, dropped: Index) -> tuple[Index, Index]:
    """(holes, movers): if `dropped` of `count` items leave, item `movers[i]` has to move to place `holes[i]`; the others stay."""
    kept = count - len(dropped)
    gone = np.zeros(count, dtype=bool)
    gone[dropped] = True
    return np.flatnonzero(gone[:kept]), kept + np.flatnonzero(~gone[kept:])


def arrangement(sources: Index) -> Index:
    """An order of items that come from the places `sources`, in which few items move.

    If some come from place i, and i is a place in the new order, one of them is at i.
    """
    count = len(sources)
    origins, firsts = np.unique(sources, return_index=True)
    stays = origins < count
    order = np.full(count, -1, dtype=np.int64)
    order[origins[stays]] = firsts[stays]
    moves = np.ones(count, dtype=bool)
    moves[firsts[stays]] = False
    order[order < 0] = np.flatnonzero(moves)
    return order


def by_slot(slot_of: Index, slots: int) -> tuple[int, Index, Index]:
    """(width, gather, place): a table of rows by slot, in which every slot has `width` entries.

    `gather`, (slots * width,), are the rows in the order of the table, with row 0 in spare entries; row i is entry `place[i]`.
    """
    rows = len(slot_of)
    counts = np.bincount(slot_of, minlength=slots)
    width = int(counts.max())
    order = np.argsort(slot_of, kind="stable")
    rank = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(rows, dtype=np.int64)
    place[order] = slot_of[order] * width + rank
    gather = np.zeros(slots * width, dtype=np.int64)
    gather[place] = np.arange(rows)
    return width, gather, place


def _to_slots(tensor: Tensor, group: _SlotGroup) -> Tensor:
    """Change (rows, heads, queries, n) into (slots, heads, width * queries, n) for a group."""
    if group.gather is None:
        return tensor
    _, heads, queries, size = tensor.shape
    wide = tensor[group.gather].view(-1, group.width, heads, queries, size).transpose(1, 2)
    return wide.reshape(-1, heads, group.width * queries, size)


def _to_rows(tensor: Tensor, group: _SlotGroup) -> Tensor:
    """Change (slots, heads, width * queries, n) back into (rows, heads, queries, n) for a group."""
    if group.place is None:
        return tensor
    _, heads, queries, size = tensor.shape
    queries //= group.width
    tall = tensor.view(-1, heads, group.width, queries, size).transpose(1, 2)
    return tall.reshape(-1, heads, queries, size)[group.place]


def _repeat(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def _grown(have: tuple[int, int], need: tuple[int, int]) -> tuple[int, int]:
    """The (items, columns) to allocate: `have` if that is enough, else `need`; if items are added, then at least by half."""
    if need[0] <= have[0] and need[1] <= have[1]:
        return have
    return (max(need[0], have[0] * 3 // 2) if need[0] > have[0] else need[0]), need[1]


def _resized(tensor: Tensor, count: int, columns: int) -> Tensor:
    """A copy of the tensor with another number of items and columns; new ones are zero."""
    larger = tensor.new_zeros(count, tensor.shape[1], columns, tensor.shape[3])
    count, columns = min(count, len(tensor)), min(columns, tensor.shape[2])
    larger[:count, :, :columns] = tensor[:count, :, :columns]
    return larger


def _up(n: int, block: int) -> int:
    return -(-n // block) * block
