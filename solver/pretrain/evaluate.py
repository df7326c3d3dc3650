"""`solver evaluate`: how well a base model answers queries of families it was never trained on, without any fitting.

solver evaluate runs/pretrain/latest --corpus DIR --out runs/pretrain
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch.nn import functional

from solver.arc.seeding import generator
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, random_view
from solver.codec import Codec
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.lean import States
from solver.model.load import load_base
from solver.pretrain.command import evaluation_guard, load_store
from solver.pretrain.fast import fast_states
from solver.pretrain.guard import held_out
from solver.pretrain.store import PairStore
from solver.train.batches import Row, collate, micro_batches
from solver.types import TokenSequence

DEMONSTRATIONS = 3
LONGEST = 1024  # tokens of a sequence
_Z = 1.96  # standard errors each side of a 95 % interval


@dataclass(frozen=True)
class Tally:
    """Queries answered, and how well."""

    queries: int = 0
    exact: int = 0  # every token is the most probable one: greedy decoding gives the answer
    tokens: int = 0
    right: int = 0
    nats: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of exact answers (Wilson 1927)."""
        if not self.queries:
            return 0.0, 1.0
        n, p, z = self.queries, self.exact / self.queries, _Z
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


def evaluate(
    model: Path, corpus: Path | None, cache: Path, queries: int, seed: int, report: Callable[[str], None]
) -> dict[str, Tally]:
    """Tallies by corpus over about `queries` queries, as many of every held-out family as of any other.

    `cache` is the folder where the packed corpora are kept. Raises InputError for an unusable model or corpus.
    """
    base = load_base(model, ModelSettings(dtype="float32"))
    store = load_store(corpus, cache, evaluation_guard(), report)
    unseen = store.select([held_out(name) for name in store.names])
    asked = list(held_out_queries(unseen, base.codec, queries, seed))
    if not asked:
        raise InputError("no held-out family of the corpora has enough pairs for a query")
    report(f"{len(asked)} queries of {len({family for family, _ in asked})} held-out families")
    states, piece = fast_states(base.model)
    tallies: dict[str, Tally] = {}
    rows = [Row(number, sequence, 1.0) for number, (_, sequence) in enumerate(asked)]
    for group in micro_batches(rows, piece or 2**16):
        for number, tally in _answers(base.model.get_output_embeddings(), states, group, base.codec.pad, base.device):
            source = unseen.sources[asked[number][0]]
            tallies[source] = tallies.get(source, Tally()) + tally
    return tallies


def held_out_queries(store: PairStore, codec: Codec, queries: int, seed: int) -> Iterator[tuple[int, TokenSequence]]:
    """(family, sequence) with loss on the answer alone; every family with enough pairs of moderate size is asked as often."""
    usable = [f for f in range(len(store)) if len(_short(store, f)) > DEMONSTRATIONS]
    for family in usable:
        rng = generator(seed, store.sources[family], store.names[family])
        pairs = _short(store, family)
        for _ in range(-(-queries // len(usable))):
            chosen = [Pair(*store.pair(pairs[int(i)])) for i in rng.permutation(len(pairs))[: DEMONSTRATIONS + 1]]
            task = Task(store.names[family], tuple(chosen[:-1]), (chosen[-1],))
            view = random_view(rng, DEMONSTRATIONS, TRANSFORMS, "permute_nonzero", shuffle=False)
            yield family, codec.sequence(view.apply(task), LONGEST, demonstrations=False)


def _short(store: PairStore, family: int) -> list[int]:
    """The pairs that always fit four to a sequence."""
    cost = store.tokens()[store.starts[family] : store.starts[family + 1]]
    return [pair for pair, tokens in zip(store.family(family), cost, strict=True) if tokens * (DEMONSTRATIONS + 1) < LONGEST]


@torch.no_grad()
def _answers(
    head: torch.nn.Module, states: States, group: list[Row], pad: int, device: torch.device
) -> Iterator[tuple[int, Tally]]:
    batch = collate(group, pad).to(device)
    logits = head(states(batch.ids, batch.places)).float()
    nats = functional.cross_entropy(logits, batch.targets, reduction="none").double()
    right = logits.argmax(-1) == batch.targets
    for row in group:
        mine = batch.owners == row.slot
        count, hits = int(mine.sum()), int(right[mine].sum())
        yield row.slot, Tally(1, int(hits == count), count, hits, float(nats[mine].sum()))
