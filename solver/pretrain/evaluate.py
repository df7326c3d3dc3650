"""`solver evaluate` on held-out families: how well a base model answers queries of families it was not trained on, without a fit.

solver evaluate runs/pretrain/latest --corpus DIR --out runs/pretrain
"""

from __future__ import annotations

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
from solver.model.fused_training import States
from solver.model.head import OutputHead
from solver.model.load import load_base
from solver.pretrain.command import evaluation_guard, load_store
from solver.pretrain.fast import fast_states
from solver.pretrain.guard import held_out
from solver.pretrain.store import PairStore
from solver.report.scores import wilson
from solver.train.batches import BatchRow, collate, micro_batches
from solver.types import TokenSequence

DEMONSTRATIONS = 3
MAX_TOKENS = 1024  # of a sequence


@dataclass(frozen=True)
class AnswerCounts:
    """Counts over queries."""

    queries: int = 0
    exact: int = 0  # queries of which every answer token is the most probable one: greedy decoding gives the answer
    tokens: int = 0  # of the answers
    right: int = 0  # tokens that are the most probable ones
    nats: float = 0.0  # summed negative log-probability of the tokens

    def __add__(self, other: AnswerCounts) -> AnswerCounts:
        return AnswerCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval (Wilson) of the share of exact answers."""
        return wilson(self.exact, self.queries)


@dataclass(frozen=True)
class HeldOut:
    """How a model answered: a tally for each corpus, the number of families asked, and the device."""

    tallies: dict[str, AnswerCounts]
    families: int
    facts: dict[str, str]


def evaluate(model: Path, corpus: Path | None, cache: Path, queries: int, seed: int, report: Callable[[str], None]) -> HeldOut:
    """Ask about `queries` queries, the same number of every held-out family.

    `cache` is the folder in which the packed corpora are cached. Raises InputError for an unusable model or corpus.
    """
    base = load_base(model, ModelSettings(dtype="float32"))
    store = load_store(corpus, cache, evaluation_guard(), report)
    unseen = store.select([held_out(name) for name in store.names])
    asked = list(held_out_queries(unseen, base.codec, queries, seed))
    if not asked:
        raise InputError("no held-out family of the corpora has enough pairs for a query")
    families = len({family for family, _ in asked})
    report(f"{len(asked)} queries of {families} held-out families")
    states, piece = fast_states(base.model)
    tallies: dict[str, AnswerCounts] = {}
    rows = [BatchRow(number, sequence, 1.0) for number, (_, sequence) in enumerate(asked)]
    for group in micro_batches(rows, piece or 2**16):
        for number, tally in _answers(OutputHead.of(base.model), states, group, base.codec.pad, base.device):
            source = unseen.sources[asked[number][0]]
            tallies[source] = tallies.get(source, AnswerCounts()) + tally
    cuda = base.device.type == "cuda"
    device = torch.cuda.get_device_name(base.device) if cuda else str(base.device)
    return HeldOut(tallies, families, {"device": device, "threads": str(torch.get_num_threads())})


def held_out_queries(store: PairStore, codec: Codec, queries: int, seed: int) -> Iterator[tuple[int, TokenSequence]]:
    """(family, sequence) of about `queries` queries, with loss on the answer alone.

    Every family with enough short pairs is asked the same number of times, in views drawn from the seed.
    """
    usable = [f for f in range(len(store)) if len(_short(store, f)) > DEMONSTRATIONS]
    for family in usable:
        rng = generator(seed, store.sources[family], store.names[family])
        pairs = _short(store, family)
        for _ in range(-(-queries // len(usable))):
            chosen = [Pair(*store.pair(pairs[int(i)])) for i in rng.permutation(len(pairs))[: DEMONSTRATIONS + 1]]
            task = Task(store.names[family], tuple(chosen[:-1]), (chosen[-1],))
            view = random_view(rng, DEMONSTRATIONS, TRANSFORMS, "permute_nonzero", shuffle=False)
            yield family, codec.sequence(view.apply(task), MAX_TOKENS, demonstrations=False)


def _short(store: PairStore, family: int) -> list[int]:
    """The pairs of a family so short that any DEMONSTRATIONS + 1 of them fit a sequence."""
    cost = store.tokens()[store.starts[family] : store.starts[family + 1]]
    return [pair for pair, tokens in zip(store.family(family), cost, strict=True) if tokens * (DEMONSTRATIONS + 1) < MAX_TOKENS]


@torch.no_grad()
def _answers(
    head: OutputHead, states: States, group: list[BatchRow], pad: int, device: torch.device
) -> Iterator[tuple[int, AnswerCounts]]:
    """The slot of each row and the tally of its query, by one forward pass over all rows."""
    batch = collate(group, pad).to(device)
    logits = head(states(batch.ids, batch.places)).float()
    nats = functional.cross_entropy(logits, batch.targets, reduction="none").double()
    right = logits.argmax(-1) == batch.targets
    for row in group:
        mine = batch.owners == row.slot
        count, hits = int(mine.sum()), int(right[mine].sum())
        yield row.slot, AnswerCounts(1, int(hits == count), count, hits, float(nats[mine].sum()))
