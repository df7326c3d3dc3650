"""Times one loaded model for `solver profile`: what its trainer and its engine take at one sequence length.

The sequences come from a made-up task whose outputs equal its inputs, cut to the length asked for. As in a real task only answers
are weighted, and a search follows few branches. Every number is the wall time of a call of a `Trainer` or an `Engine`. The CUDA
paths (peak memory, synchronisation) have not been run yet.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.arc.task import Pair, Task
from solver.budget.profile import Row, Variant
from solver.codec import Codec
from solver.config import Settings
from solver.types import AdapterRef, Deadline, FitJob, Request, Result, SampleRequest, ScoreRequest, SearchRequest, TokenSequence

if TYPE_CHECKING:
    from solver.infer.base import Engine
    from solver.model.load import Base
    from solver.train.base import Trainer

SIDE = 12  # cells, of the grids of the made-up task
NEW_TOKENS = 128  # at most, that decoding and search are timed on
MAX_STEPS = 10


class _TimeIsUp(Exception):
    """A measurement that the deadline cut."""


class _Failed(Exception):
    """A measurement that failed; the message is "out of memory", or the error of the trainer or the engine."""


class Bench:
    """Times one loaded model with its trainer and engine."""

    def __init__(self, base: Base, trainer: Trainer, engine: Engine, settings: Settings, variant: Variant) -> None:
        self._base, self._trainer, self._engine, self._settings = base, trainer, engine, settings
        self.variant = variant
        self.context = base.context
        self.fit_seconds = 0.0  # of a fit, besides its steps
        # seconds that the last row took: those that grow with the length, and those that hardly do
        self.reading = self.writing = 0.0
        self._adapter: AdapterRef | None = None  # of the first fit: inference is timed with it
        self._fits = self._asked = 0
        self._stepping = 0.0

    def row(self, tokens: int, stepping: float, deadline: Deadline) -> Row:
        """All numbers at one length. A number that cannot be measured is None, and the note says why.

        Optimizer steps are repeated for `stepping` seconds, but at most `MAX_STEPS`.
        """
        from solver.model.memory import is_out_of_memory, out_of_memory_line

        self._stepping, self.reading, self.writing = stepping, 0.0, 0.0
        reset_peak(self._base.device)
        numbers: dict[str, Any] = {}
        notes: list[str] = []
        for what, part in (("training", self._train), ("inference", self._infer)):
            try:
                numbers.update(part(tokens, deadline, notes))
            except _TimeIsUp:
                notes.append(f"{what}: cut by --seconds")
            except _Failed as failure:
                notes.append(f"{what}: {failure}")
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                notes.append(f"{what}: {out_of_memory_line(error)}")
        return Row(tokens=tokens, peak_memory=peak_of(self._base.device), note="; ".join(notes), **numbers)

    # -- training

    def _train(self, tokens: int, deadline: Deadline, notes: list[str]) -> dict[str, Any]:
        del notes
        rng = np.random.default_rng(tokens)
        sequences = tuple(material(self._base.codec, tokens, rng)[0] for _ in range(self.variant.batch))
        first = not self._fits
        one = self._fit(sequences, 1, deadline)
        if first:  # the first fit includes what is done only once, so time it again
            one = self._fit(sequences, 1, deadline)
        self.reading += one
        steps = max(1, min(MAX_STEPS, int(self._stepping / max(one - self.fit_seconds, 1e-6))))
        if deadline.expired(steps * one):
            return {"step_seconds": max(one - self.fit_seconds, 1e-9), "steps": 1}
        if first:
            many = self._fit(sequences, 1 + steps, deadline)
            step = max(many - one, 1e-9) / steps
            self.fit_seconds = max(one - step, 0.0)
        else:
            step = max(self._fit(sequences, steps, deadline) - self.fit_seconds, 1e-9) / steps
        return {"step_seconds": step, "steps": steps}

    def _fit(self, sequences: tuple[TokenSequence, ...], steps: int, deadline: Deadline) -> float:
        """Seconds of a fit of so many steps, including saving its adapter."""
        self._fits += 1
        began = time.perf_counter()
        (fit,) = self._trainer.fit([FitJob(f"profile{self._fits}", sequences, steps)], deadline)
        wait_for(self._base.device)
        seconds = time.perf_counter() - began
        if fit.reason == "deadline":
            raise _TimeIsUp
        if fit.status != "complete":
            raise _Failed("out of memory" if fit.reason == "oom" else fit.reason)
        self._adapter = self._adapter or fit.adapter
        return seconds

    # -- inference

    def _infer(self, tokens: int, deadline: Deadline, notes: list[str]) -> dict[str, Any]:
        """Prefill by a first call, then decoding, search and scoring with prompts that the engine has just read."""
        length = min(tokens, self.context - NEW_TOKENS)
        if length < 1:
            raise _Failed(f"the context of {self.context} tokens leaves no room for prompts")
        if length < tokens:
            notes.append(f"prompts have {length:,} tokens, to leave room for answers")
        if not self._asked or self._base.device.type == "cuda":  # what an engine does only once, or once for each shape
            self._sample(self._prompts(length), 1, deadline)
        prompts = self._prompts(length)
        numbers: dict[str, Any] = {"prefill_seconds": self._sample(prompts, 1, deadline)[0] / len(prompts)}
        again, _ = self._sample(prompts, 1, deadline)  # what the engine still takes for a prompt that it has read before
        self.reading += 2 * numbers["prefill_seconds"] * len(prompts) + again
        began = time.perf_counter()
        seconds, decoded = self._sample(prompts, NEW_TOKENS, deadline)
        numbers["decode_rate"] = _rate(decoded - len(prompts), seconds - again)
        searches = [
            SearchRequest(self._id(), prompt, self._adapter, self._settings.infer.min_prob, NEW_TOKENS) for prompt in prompts
        ]
        seconds, results = self._ask(self._engine.search, searches, deadline)
        numbers["search_rate"] = _rate(sum(result.new_tokens for result in results), seconds - again)
        notes += [f"{what}: too few tokens to time" for what in ("decode", "search") if numbers[f"{what}_rate"] is None]
        answer = material(self._base.codec, length, np.random.default_rng(0))[2]
        scores = [ScoreRequest(self._id(), prompt, self._adapter, (answer,)) for prompt in prompts]
        seconds, _ = self._ask(self._engine.score, scores, deadline)
        self.writing = time.perf_counter() - began
        return {**numbers, "score_seconds": seconds / len(prompts), "score_tokens": len(answer)}

    def _prompts(self, length: int) -> list[Any]:
        """One new prompt for each view."""
        rng = np.random.default_rng((length, self._asked))
        return [material(self._base.codec, length, rng)[1] for _ in range(self.variant.views)]

    def _sample(self, prompts: Sequence[Any], most: int, deadline: Deadline) -> tuple[float, int]:
        """Seconds, and tokens decoded."""
        requests = [SampleRequest(self._id(), prompt, self._adapter, 1, 0.0, most) for prompt in prompts]
        seconds, results = self._ask(self._engine.sample, requests, deadline)
        return seconds, sum(result.new_tokens for result in results)

    def _ask(
        self, call: Callable[[Any, Deadline], Iterator[Result]], requests: Sequence[Request], deadline: Deadline
    ) -> tuple[float, list[Result]]:
        """Seconds until every request was answered, and the answers."""
        began = time.perf_counter()
        results = list(call(requests, deadline))
        wait_for(self._base.device)
        seconds = time.perf_counter() - began
        for result in results:
            if result.status == "failed":
                raise _Failed(result.error)
            if result.status == "cut":
                raise _TimeIsUp
        return seconds, results

    def _id(self) -> str:
        self._asked += 1
        return f"profile{self._asked}"


def _rate(tokens: int, seconds: float) -> float | None:
    """Tokens a second; None if there is too little to time."""
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def material(codec: Codec, tokens: int, rng: np.random.Generator) -> tuple[TokenSequence, Any, Any]:
    """A training sequence and a prompt (tokens,) of exactly so many tokens, and the answer to the prompt.

    They are the last tokens of a task of random grids whose outputs equal their inputs.
    """
    pair_tokens = 2 * SIDE * (SIDE + 1)
    grids = [rng.integers(0, 10, (SIDE, SIDE)).astype(np.uint8) for _ in range(tokens // pair_tokens + 2)]
    pairs = [Pair(grid, grid) for grid in grids]
    task = Task("profile", tuple(pairs[:-1]), (pairs[-1],))
    room = 10 * (tokens + pair_tokens)  # more than all of it
    whole = codec.sequence(task, room)
    weights = whole.weights[-tokens:].copy()
    weights[0] = 0.0
    sequence = TokenSequence(whole.ids[-tokens:], weights)
    prompt = codec.prompt(task, 0, room, 0).ids[-tokens:]
    return sequence, prompt, codec.encode_answer(grids[-1])[:NEW_TOKENS]


# -- memory


def reset_peak(device: Any) -> None:
    """Reset the peak memory of a CUDA device, or (on Linux) of this process."""
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()  # what an earlier length left reserved is not needed by this one
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)


def peak_of(device: Any) -> int | None:
    """Peak memory in bytes of a CUDA device, or of this process; None if the system does not tell."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved(device))
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(peak[1]) * 1024 if peak else None


def wait_for(device: Any) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
