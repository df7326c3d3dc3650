"""How a device's memory is divided between fits and inference, by arithmetic on the sizes of a model. Needs no torch.

Sizes of weights, adapters, keys and values are exact. What else a forward or backward pass holds is an estimate; functions and
constants that estimate say so. Constants marked "assumed" were not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

USABLE_SHARE = 0.94  # of a device's memory; the driver and gaps between allocations take the rest; assumed
CUDA_CONTEXT = 600_000_000  # bytes of a CUDA context with the libraries' kernels, in each process; assumed
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, an 8-bit scale for 64 weights, a 32-bit scale for 256 such scales
ADAPTER_COPIES = 6 * 4  # bytes a trained weight: value, gradient, two moments, snapshot and update, in fp32
ENOUGH_SEQUENCES = 4  # of full length: an engine with keys and values for these works well beside fits; assumed
FAIR_SHARE = 0.5  # of the memory: keys and values get more of it only where fits leave it free; assumed
KV_SHARE = 0.2  # of the memory that is free when an engine starts, for the keys and values of one batch; assumed
LOGITS = 2**26 * 4 * 3  # bytes, estimate: the logits of one chunk of the loss (see `train.loss`), their gradients, and a copy


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder."""

    layers: int
    hidden: int
    inner: int  # of the MLP
    queries: int  # query heads times their width
    keys: int  # key heads times their width; the same for values
    vocabulary: int
    tied: bool  # whether embedding and head are one matrix

    @classmethod
    def of(cls, config: Any) -> Self:
        """The sizes in a configuration of transformers."""
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
    def linear_weights(self) -> int:
        """The number of weights of all projections, which are those that NF4 quantises."""
        return self.layers * self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def other_weights(self) -> int:
        """The number of weights of the embedding, the head and the norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden * (2 * self.layers + 1)

    @property
    def weights_per_rank(self) -> int:
        """The number of weights of a LoRA adapter of rank 1 on all projections."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        return self.layers * (attention + 3 * (self.hidden + self.inner))

    def weight_bytes(self, itemsize: int, quantized: bool = False) -> int:
        """Bytes of all weights; `itemsize`: bytes of a weight that is not quantised."""
        return int(self.linear_weights * (NF4 if quantized else itemsize)) + self.other_weights * itemsize

    def kv_bytes(self, tokens: int, itemsize: int) -> int:
        """Bytes of the keys and values of `tokens` tokens."""
        return 2 * self.layers * self.keys * itemsize * tokens

    def training_bytes(self, tokens: int, itemsize: int, checkpointing: bool) -> int:
        """Bytes, estimate: what a micro-batch of `tokens` tokens holds at the end of its forward pass."""
        # inputs and outputs of norms and projections, and one more copy of the MLP's inner states for the product
        layer = 6 * self.hidden + 2 * self.queries + 2 * self.keys + 4 * self.inner
        kept = self.layers * self.hidden + 2 * layer if checkpointing else self.layers * layer
        return kept * itemsize * tokens + min(LOGITS, 12 * tokens * self.vocabulary)

    def inference_bytes(self, step_tokens: int, sequences: int, itemsize: int) -> int:
        """Bytes, estimate: what one pass of an engine holds besides weights and cache.

        That is one layer's states, and three times the logits of the sequences in fp32. When prompts are scored, it is also the
        logits of all tokens of the pass, and their log-probabilities in fp32.
        """
        layer = 4 * self.hidden + self.queries + 2 * self.keys + 3 * self.inner
        logits = sequences * 4 * 3 + step_tokens * (itemsize + 4)
        return step_tokens * layer * itemsize + logits * self.vocabulary


@dataclass(frozen=True)
class Demand:
    """What each worker of a device wants to do there."""

    shape: ModelShape
    itemsize: int  # bytes of a weight that is not quantised
    quantized: bool  # whether the base under the fits is in NF4
    rank: int  # of adapters
    stack: int  # adapters that one step of the fits trains at most
    batch_tokens: int  # of a micro-batch
    checkpointing: bool  # whether fits recompute layers
    context: int  # tokens of the longest sequence
    cache_tokens: int  # for whose keys and values the engine wants room
    step_tokens: int  # that the engine reads in one pass
    sequences: int  # that the engine decodes at once
    slots: int  # adapters that the engine wants in one batch
    separate_process: bool  # whether fits run in a process of their own


def affordable_positions(shape: ModelShape, itemsize: int, wanted: int, free: int) -> int:
    """How many positions of keys and values a batch may have: `wanted`, or fewer if they took more than KV_SHARE of `free` bytes.

    The engine keeps as many positions of prompts besides, and fits want the rest.
    """
    return max(1, min(wanted, int(KV_SHARE * free) // shape.kv_bytes(1, itemsize)))


Served = Literal["dequantised", "quantised", "as loaded"]


@dataclass(frozen=True)
class DevicePlan:
    """How one worker divides its share of a device's memory. In bytes, except `slots`."""

    total: int  # of the device
    share: int  # of this worker
    fit: int  # for fits, their base included
    infer: int  # for inference
    base: int  # weights of the base under the fits
    weights: int  # of the engine
    slots: int  # adapters in one batch of the engine: the number wanted, or fewer
    adapters: int  # bytes of these
    cache: int  # keys and values of the engine; 0: this device is too small for inference
    alternates: bool  # whether fits and inference take turns, each giving up its memory for the other
    served: Served  # the form in which the engine holds the base

    @property
    def fit_fraction(self) -> float:
        """The share of the device's memory for fits, as `torch.cuda.set_per_process_memory_fraction` takes it."""
        return self.fit / self.total

    def describe(self) -> str:
        """One line for the log."""
        how = "take turns" if self.alternates else "stay side by side"
        return (
            f"fits and inference {how}: {_gb(self.share)} of {_gb(self.total)}; fits {_gb(self.fit)}, of it the base "
            f"{_gb(self.base)}; inference {_gb(self.infer)}, of it weights {_gb(self.weights)} ({self.served}), "
            f"{self.slots} adapters {_gb(self.adapters)}, keys and values {_gb(self.cache)}"
        )


def plan_device(
    total: int, workers: int, demand: Demand, fit_share: float | None = None, alternate: bool | None = None
) -> DevicePlan:
    """Divide `total` bytes among `workers`, and the share of one between its fits and an engine with weights of its own.

    Both stay on the device if everything that they want fits, or everything except some keys and values. In that case keys and
    values get the rest, at most `FAIR_SHARE` of the memory, if it holds `ENOUGH_SEQUENCES` sequences. Otherwise they take turns,
    and each has all the memory in its turn. `fit_share` sets the share of fits while both stay. `alternate` sets whether they
    take turns. The engine serves a quantised base dequantised. If that leaves no room for one sequence of the full context, it
    serves the quantised weights.
    """
    share = int(total * USABLE_SHARE) // workers
    shape, itemsize = demand.shape, demand.itemsize
    room = share - CUDA_CONTEXT * (2 if demand.separate_process else 1)
    base = shape.weight_bytes(itemsize, demand.quantized)
    adapter_weights = demand.rank * shape.weights_per_rank
    loaded = base + demand.stack * adapter_weights * ADAPTER_COPIES  # what fits hold before their first batch
    longest = shape.kv_bytes(demand.context, itemsize)
    wanted = max(shape.kv_bytes(demand.cache_tokens, itemsize), longest)
    step = shape.inference_bytes(demand.step_tokens, demand.sequences, itemsize)

    def engine(slots: int, cache: int) -> int:
        return weights + slots * adapter_weights * itemsize + step + cache

    served: Served = "dequantised" if demand.quantized else "as loaded"
    weights = shape.weight_bytes(itemsize)
    if demand.quantized and engine(1, longest) > room:
        served, weights = "quantised", base
    if fit_share is not None:
        fit = int(room * fit_share)
        together = fit >= loaded and room - fit >= engine(1, longest)
    else:
        fitting = loaded + shape.training_bytes(demand.batch_tokens, itemsize, demand.checkpointing)
        left = room - fitting - engine(demand.slots, 0)
        cache = wanted if wanted <= left else min(wanted, max(ENOUGH_SEQUENCES * longest, min(left, int(FAIR_SHARE * room))))
        fit = room - engine(demand.slots, cache)  # what the engine does not want: the need of fits is only an estimate
        together = fit >= fitting
    alternates = not together if alternate is None else alternate
    fit = room if alternates else max(fit, 0)
    infer = room if alternates else room - fit
    slots = demand.slots
    while slots > 1 and engine(slots, longest) > infer:
        slots -= 1
    cache = min(wanted, infer - engine(slots, 0))
    return DevicePlan(
        total=total,
        share=share,
        fit=fit,
        infer=infer,
        base=base,
        weights=weights,
        slots=slots,
        adapters=slots * adapter_weights * itemsize,
        cache=cache if cache >= longest else 0,
        alternates=alternates,
        served=served,
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
