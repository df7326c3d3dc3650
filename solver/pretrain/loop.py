"""The training loop of `solver pretrain`: it takes steps until the given minutes are over, and can be stopped and resumed."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from solver.errors import InputError, one_line
from solver.model.fused_training import States
from solver.model.head import OutputHead
from solver.model.memory import peak_memory
from solver.pretrain.checkpoint import CheckpointError, Position, load_state, save_checkpoint
from solver.pretrain.fast import evaluating, fast_states, matmul_flops
from solver.pretrain.group import ALONE, Group
from solver.pretrain.sampler import Batch, BatchSource
from solver.pretrain.supply import supply
from solver.pretrain.target import PretrainTarget
from solver.report.curves import plot_curves


@dataclass(frozen=True)
class LoopSettings:
    """Duration, learning rate and bookkeeping of a training."""

    minutes: float
    lr: float | None = None  # peak learning rate; None: the target's usual one
    weight_decay: float = 0.05
    warmup_steps: int = 100
    cooldown: float = 0.4  # last part of this call's minutes or steps, over which the rate falls linearly to zero; 0: it stays
    clip: float = 1.0  # largest norm of the gradient
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 4.0
    workers: int = 0  # processes that make batches in advance; 0: this process makes them
    steps: int | None = None  # of this call at most, where the minutes allow more; None: no limit


def train(
    target: PretrainTarget,
    sampler: BatchSource,
    validation: list[Batch],
    settings: LoopSettings,
    out: Path,
    resume: Path | None,
    seed: int,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    group: Group = ALONE,
) -> Position:
    """Train until the minutes are over or SIGTERM or SIGINT arrives. Gives the position at the end.

    Writes checkpoints, `OUT/metrics.jsonl` and `OUT/metrics.png`. `resume` is a checkpoint to go on from. Each process of a group
    trains on its own batches and steps by the mean of all gradients; the first process validates and writes. A step whose
    gradient is not finite is left out. A checkpoint that cannot be written is reported, and tried again later. Raises InputError
    if the last one cannot be written, or if `resume` does not fit.
    """
    model, trained = target.model, target.parameters()
    device, head = next(iter(trained.values())).device, OutputHead.of(model)
    peak = target.lr if settings.lr is None else settings.lr
    optimizers = target.optimizers(peak, settings.weight_decay)
    position = (load_state(resume, target, optimizers) if resume else None) or Position(seed=seed)
    # the rate warms up again unless the optimizer's state was loaded
    warmed = any(optimizer.state for optimizer in optimizers)
    warm_from = position.steps - settings.warmup_steps if warmed else position.steps
    start_steps, start_tokens, start_seconds = position.steps, position.tokens, position.seconds
    states, piece = fast_states(model)
    peak_flops = matmul_flops(device) * group.size
    out.mkdir(parents=True, exist_ok=True)
    began = last_saved = last_checked = clock()
    losses: list[float] = []
    model.train()
    written = out / "metrics.jsonl" if group.leads else Path(os.devnull)
    with written.open("ab", buffering=0) as log, _until_sigterm() as stopped:
        for block, index, batch in supply(sampler, position.block, position.batch, settings.workers, group):
            elapsed, stops = group.maxima([clock() - began, stopped()])
            share = 0.0 if settings.steps is None else (position.steps - start_steps) / settings.steps
            if elapsed >= settings.minutes * 60 or share >= 1 or stops:
                break
            progress = max(share, elapsed / (settings.minutes * 60))
            factor = rate_factor(position.steps - warm_from, progress, settings)
            for optimizer in optimizers:
                for parameters in optimizer.param_groups:
                    parameters["lr"] = peak * factor
            losses.append(sum(_backward(loss) for loss, _ in batch_losses(states, head, batch, piece, device)))
            group.mean_gradients(trained.values())
            norm = float(torch.nn.utils.clip_grad_norm_(trained.values(), settings.clip))
            if math.isfinite(norm):
                for optimizer in optimizers:
                    optimizer.step()
            model.zero_grad(set_to_none=True)
            read = _tokens_by_source(batch, sampler, group)
            position = replace(
                position,
                steps=position.steps + 1,
                tokens=position.tokens + read.total(),
                by_source=dict(Counter(position.by_source) + read),
                block=block,
                batch=index,
                seconds=start_seconds + clock() - began,
            )
            entry: dict[str, Any] = {}
            if group.leads and position.steps % 20 == 0:
                speed = (position.tokens - start_tokens) / (clock() - began)
                entry = {
                    "step": position.steps,
                    "tokens": position.tokens,
                    "seconds": round(position.seconds, 1),
                    "loss": round(sum(losses) / len(losses), 4),
                    "norm": round(norm, 3),
                    "lr": peak * factor,
                    "tokens_per_second": round(speed),
                    "mfu": round(speed * flops_per_token(target, batch.ids.shape[1]) / peak_flops, 3),
                    "peak_memory": peak_memory(device),
                }
                losses.clear()
            if group.leads and clock() - last_checked >= settings.validate_minutes * 60:
                held_loss, accuracy = validate(states, model, validation, piece, device)
                entry |= {"step": position.steps, "held_out_loss": held_loss, "held_out_accuracy": accuracy}
                last_checked = clock()
            if entry:
                _note(log, entry)
                report("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()))
            if group.leads and clock() - last_saved >= settings.checkpoint_minutes * 60:
                try:
                    save_checkpoint(out, target, optimizers, position)
                except CheckpointError as error:
                    report(f"{error}; the one before stays")
                last_saved = clock()
        if not group.leads:
            group.wait()
            return position
        held_loss, accuracy = validate(states, model, validation, piece, device)
        _note(log, {"step": position.steps, "held_out_loss": held_loss, "held_out_accuracy": accuracy})
        report(f"end: {position.steps - start_steps} steps, held-out loss {held_loss:.4f}, token accuracy {accuracy:.4f}")
        report(f"tokens by source: {', '.join(f'{name} {tokens:,}' for name, tokens in sorted(position.by_source.items()))}")
        try:  # signals are still only noted here: a second one must not interrupt the saving that the first one asked for
            save_checkpoint(out, target, optimizers, position)
            target.finish(out, report)
            plot_curves(out / "metrics.jsonl", out / "metrics.png", report)
        except CheckpointError as error:
            raise InputError(f"{error}; the one before stays") from None
        except (OSError, SafetensorError) as error:
            raise InputError(f"{out}: cannot be written after the last checkpoint: {one_line(error)}") from None
    group.wait()
    return position


def _tokens_by_source(batch: Batch, sampler: BatchSource, group: Group) -> Counter[str]:
    """Tokens of the current batches of all processes of the group, by source."""
    if group.size == 1:
        return Counter(batch.by_source)
    sums = group.sums([batch.by_source.get(source, 0) for source in sampler.sources])
    return Counter({source: int(tokens) for source, tokens in zip(sampler.sources, sums, strict=True) if tokens})


def rate_factor(steps: int, progress: float, settings: LoopSettings) -> float:
    """The learning rate as a share of its peak.

    It rises linearly over the warm-up steps, stays at 1, and falls linearly to 0 over the last `cooldown` of the time.
    """
    warm = min(1.0, (steps + 1) / max(1, settings.warmup_steps))
    cool = 1.0 if settings.cooldown == 0 else min(1.0, max(0.0, (1 - progress) / settings.cooldown))
    return min(warm, cool)


def flops_per_token(target: PretrainTarget, length: int) -> float:
    """Floating-point operations to train on one token of a sequence of `length` tokens.

    They are 6 for each trained weight, 4 for each frozen one, and those of the products of causal attention.
    """
    config = target.model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * width * length
    trained = sum(p.numel() for p in target.parameters().values())
    frozen = sum(p.numel() for p in target.model.parameters() if not p.requires_grad)
    return 6.0 * trained + 4.0 * frozen + attention


def batch_losses(
    states: States, head: Any, batch: Batch, piece: int | None, device: torch.device
) -> Iterator[tuple[Tensor, int]]:
    """For each piece of a batch: its share of the batch's mean loss over weighted tokens, and how many tokens it predicts right.

    A piece has at most `piece` padded tokens (None: all rows), and no more padding than its longest row needs. A piece is
    computed when it is asked for, so the memory of the one before can be freed first.
    """
    total = int((batch.weights[:, 1:] > 0).sum())
    for rows in _pieces(batch, piece):
        weighted = torch.from_numpy(batch.weights[rows, 1:] > 0)
        width = int(weighted.any(0).nonzero().max()) + 1 if weighted.any() else 0
        if not width:
            continue
        ids = torch.from_numpy(batch.ids[rows, : width + 1]).to(device)
        places = weighted[:, :width].flatten().nonzero()[:, 0].to(device)
        # no mask is needed: padding is on the right, where causal attention does not look
        logits = head(states(ids[:, :-1], places).to(head.weight.dtype)).float()
        targets = ids[:, 1:].flatten()[places]
        yield functional.cross_entropy(logits, targets, reduction="sum") / total, int((logits.argmax(-1) == targets).sum())


def _pieces(batch: Batch, tokens: int | None) -> list[slice]:
    """The rows of each piece of at most `tokens` padded tokens, but at least one row."""
    rows, width = batch.ids.shape
    size = rows if tokens is None else max(1, tokens // width)
    return [slice(first, first + size) for first in range(0, rows, size)]


def _note(log: FileIO, entry: dict[str, Any]) -> None:
    """Write a line of the log, unbuffered. On a full disk the line is lost and the training goes on."""
    with suppress(OSError):
        log.write((json.dumps(entry) + "\n").encode())


def _backward(loss: Tensor) -> float:
    """The value of a loss whose gradient has been computed."""
    loss.backward()
    return float(loss.detach())


def validate(states: States, model: Any, batches: list[Batch], piece: int | None, device: torch.device) -> tuple[float, float]:
    """Mean loss and accuracy over all weighted tokens of `batches`."""
    head = OutputHead.of(model)
    loss = right = total = 0.0
    with evaluating(model):
        for batch in batches:
            count = float((batch.weights[:, 1:] > 0).sum())
            for part, correct in batch_losses(states, head, batch, piece, device):
                loss, right = loss + float(part.detach()) * count, right + correct
            total += count
    return loss / total, right / total


@contextmanager
def _until_sigterm() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT in place of their handlers. Gives a function that says whether one has arrived."""
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(seen)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
