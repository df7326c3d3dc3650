"""What a device's memory is used for: the base, the fits, and the weights, adapters, keys and values of an engine beside them.

Arithmetic alone, from the shape of a model: no torch. Weights, adapters, keys and values are exact; what a pass of the model
holds besides is an estimate by what its layers keep, and marked with *.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

USABLE = 0.94  # of a device's memory: the rest is the driver's, and what allocators lose to gaps; assumed
CONTEXT = 600_000_000  # bytes: a CUDA context with the libraries' kernels, for each process; assumed
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: four bits, a scale of 8 bits for 64 of them, one of 32 for 256 of those
ADAPTER_COPIES = 6 * 4  # bytes a trained weight: values, gradients, two moments, snapshot and update, in fp32
ENOUGH = 4  # of the longest sequences: with keys and values of these an engine works well beside fits; assumed
FAIR = 0.5  # of the room for fits and inference: more of it only goes to keys and values if nobody misses it; assumed
LOGITS = 2**26 * 4 * 3  # bytes*: the logits of a piece of the loss, their gradients and a copy (see `train.loss`)


@dataclass(frozen=True)
class ModelShape:
    """A decoder by its sizes."""

    layers: int
    hidden: int
    inner: int  # of the MLP
    queries: int  # heads times their width
    keys: int  # the same of keys, or of values
    vocabulary: int
    tied: bool  # one matrix for embedding and head

    @classmethod
    def of(cls, config: Any) -> Self:
        """From a configuration in Hugging Face format."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            queries=heads * width,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
            vocabulary=config.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )

    @property
    def linear(self) -> int:
        """Weights of all projections: those that NF4 takes."""
        return self.layers * self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def other(self) -> int:
        """Weights of the embedding, the head and the norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden * (2 * self.layers + 1)

    @property
    def widths(self) -> int:
        """Weights of an adapter of rank 1 on all projections."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.inner))

    def weights(self, itemsize: int, quantized: bool = False) -> int:
        """Bytes of all weights."""
        return int(self.linear * (NF4 if quantized else itemsize)) + self.other * itemsize

    def positions(self, tokens: int, itemsize: int) -> int:
        """Bytes of the keys and values of so many tokens."""
        return 2 * self.layers * self.keys * itemsize * tokens

    def trained(self, tokens: int, itemsize: int, checkpointing: bool) -> int:
        """Bytes* that a micro-batch of so many tokens holds at the end of its forward pass."""
        # inputs and outputs of the norms and projections, one more copy of the MLP's middle for its product
        layer = 6 * self.hidden + 2 * self.queries + 2 * self.keys + 4 * self.inner
        kept = self.layers * self.hidden + 2 * layer if checkpointing else self.layers * layer
        return kept * itemsize * tokens + min(LOGITS, 12 * tokens * self.vocabulary)

    def inferred(self, step_tokens: int, sequences: int, itemsize: int) -> int:
        """Bytes* that a pass of an engine holds besides: one layer's, logits of the sequences in fp32, twice over, and scores.

        Where prompts are scored, the logits of all tokens of the pass and their log-probabilities in fp32 are there at once.
        """
        layer = 4 * self.hidden + self.queries + 2 * self.keys + 3 * self.inner
        logits = sequences * 4 * 3 + step_tokens * (itemsize + 4)
        return step_tokens * layer * itemsize + logits * self.vocabulary


@dataclass(frozen=True)
class Demand:
    """What is to be done on a device by each of its workers."""

    shape: ModelShape
    itemsize: int  # bytes of a weight that is not quantised
    quantized: bool  # the base that fits are made on
    rank: int  # of adapters
    batch_tokens: int  # of a micro-batch
    checkpointing: bool
    context: int  # tokens of the longest sequence
    cache_tokens: int  # keys and values of an engine, as wished
    step_tokens: int  # that an engine reads in one pass
    sequences: int  # that an engine decodes at once
    slots: int  # adapters in one batch of an engine, as wished
    apart: bool  # fits have a process of their own


Served = Literal["dequantised", "quantised", "as loaded"]


@dataclass(frozen=True)
class DevicePlan:
    """How the memory of a device is shared out, for one of its workers. In bytes, but for the number of adapters."""

    total: int  # of the device
    share: int  # of this worker
    fit: int  # that fits may take, their base included
    infer: int  # that inference may take
    base: int  # weights that fits are made on
    weights: int  # of the engine
    slots: int  # adapters in a batch of the engine: as wished, or fewer
    adapters: int  # bytes of these
    cache: int  # keys and values of the engine; 0: it does not fit this device at all
    alternates: bool  # fits and inference do not fit side by side: each gives its memory up to the other
    served: Served

    @property
    def fit_fraction(self) -> float:
        """Of the device, for `torch.cuda.set_per_process_memory_fraction`."""
        return self.fit / self.total

    def describe(self) -> str:
        """For the log, in one line."""
        how = "take turns" if self.alternates else "stay side by side"
        return (
            f"fits and inference {how}: {_gb(self.share)} of {_gb(self.total)}; fits {_gb(self.fit)}, of it the base "
            f"{_gb(self.base)}; inference {_gb(self.infer)}, of it weights {_gb(self.weights)} ({self.served}), "
            f"{self.slots} adapters {_gb(self.adapters)}, keys and values {_gb(self.cache)}"
        )


def plan_device(
    total: int, workers: int, demand: Demand, fit_share: float | None = None, alternate: bool | None = None
) -> DevicePlan:
    """Share out `total` bytes between so many workers, and a worker's part between fits and an engine with weights of its own.

    They stay side by side if all they ask for fits, or all but some of the keys and values: then these get what is left, `FAIR`
    of the room at most, if that is for `ENOUGH` sequences. Else they take turns and each has everything in its turn. `fit_share`
    sets what fits get of a worker's part while both stay, `alternate` whether they take turns. The engine serves a quantised
    base dequantised, unless that leaves no room for one sequence of the context: then the quantised weights.
    """
    share = int(total * USABLE) // workers
    shape, itemsize = demand.shape, demand.itemsize
    room = share - CONTEXT * (2 if demand.apart else 1)
    base = shape.weights(itemsize, demand.quantized)
    matrices = demand.rank * shape.widths  # of an adapter
    fits = base + matrices * ADAPTER_COPIES
    longest = shape.positions(demand.context, itemsize)
    wished = max(shape.positions(demand.cache_tokens, itemsize), longest)
    step = shape.inferred(demand.step_tokens, demand.sequences, itemsize)

    def engine(slots: int, cache: int) -> int:
        return weights + slots * matrices * itemsize + step + cache

    served: Served = "dequantised" if demand.quantized else "as loaded"
    weights = shape.weights(itemsize)
    if demand.quantized and engine(1, longest) > room:
        served, weights = "quantised", base
    if fit_share is not None:
        taken = int(room * fit_share)
        together = taken >= fits and room - taken >= engine(1, longest)
    else:
        fitting = fits + shape.trained(demand.batch_tokens, itemsize, demand.checkpointing)
        left = room - fitting - engine(demand.slots, 0)
        beside = wished if wished <= left else min(wished, max(ENOUGH * longest, min(left, int(FAIR * room))))
        taken = room - engine(demand.slots, beside)  # what nobody asked for is the fits': theirs are the estimates
        together = taken >= fitting
    alternates = not together if alternate is None else alternate
    taken = room if alternates else max(taken, 0)
    infer = room if alternates else room - taken
    slots = demand.slots
    while slots > 1 and engine(slots, longest) > infer:
        slots -= 1
    cache = min(wished, infer - engine(slots, 0))
    return DevicePlan(
        total=total,
        share=share,
        fit=taken,
        infer=infer,
        base=base,
        weights=weights,
        slots=slots,
        adapters=slots * matrices * itemsize,
        cache=cache if cache >= longest else 0,
        alternates=alternates,
        served=served,
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
