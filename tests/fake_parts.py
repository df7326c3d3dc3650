"""A trainer and an engine that need no torch: real worker processes around them start in half a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from prompt_decoding import decode_prompt

from solver.codec import Codec, grid_codec
from solver.config import Settings
from solver.types import (
    AdapterRef,
    Completion,
    Deadline,
    Fit,
    FitJob,
    Result,
    SampleRequest,
    ScoreRequest,
    SearchRequest,
)
from solver.worker.solve import Solver


class StepTrainer:
    """Takes `seconds` a step on the deadline's clock and leaves a folder as adapter."""

    def __init__(self, scratch: Path, seconds: float = 0.0) -> None:
        self.scratch, self.seconds = scratch, seconds
        self.jobs: list[FitJob] = []

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        for job in jobs:
            self.jobs.append(job)
            steps = 0
            while steps < job.steps and not deadline.expired(self.seconds):
                time.sleep(self.seconds)
                steps += 1
            path = self.scratch / job.adapter_id
            path.mkdir(parents=True)
            reason = "steps" if steps == job.steps else "deadline"
            tokens = sum(len(sequence) for sequence in job.sequences)
            adapter = AdapterRef(job.adapter_id, path, "full")
            status = "complete" if reason == "steps" else "cut"
            yield Fit(job.adapter_id, status, reason, adapter, steps, tokens, steps * self.seconds, 2.0, 1.0)


class EchoEngine:
    """Answers every query with its own input, and gives every completion a log-probability of -1 a token."""

    def __init__(self, codec: Codec, seconds: float = 0.0) -> None:
        self.codec, self.seconds = codec, seconds
        self.requests: list[SampleRequest | SearchRequest | ScoreRequest] = []

    def start(self, rank: int) -> None:
        pass

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        return self._answer(requests, deadline)

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        return self._answer(requests, deadline)

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        for request in requests:
            self.requests.append(request)
            if deadline.expired():
                yield Result(request.id, "cut", ())
            else:
                yield Result(request.id, "complete", tuple(self._completion(ids) for ids in request.completions))

    def _answer(self, requests: Sequence[SampleRequest] | Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        for request in requests:
            self.requests.append(request)
            if deadline.expired(self.seconds):
                yield Result(request.id, "cut", ())
                continue
            time.sleep(self.seconds)
            ids = self.codec.encode_answer(decode_prompt(self.codec, request.prompt)[1])
            yield Result(request.id, "complete", (self._completion(ids),), "", len(request.prompt), len(ids))

    def _completion(self, ids: np.ndarray) -> Completion:
        return Completion(ids, np.full(len(ids), -1.0, dtype=np.float32), finished=True)


def fake_solver(settings: Settings, scratch: Path, step: float = 0.0, answer: float = 0.0, context: int = 8192) -> Solver:
    codec = grid_codec()
    return Solver(settings, codec, context, StepTrainer(scratch, step), EchoEngine(codec, answer))
