"""The real worker with a part that breaks: `sabotaged_worker.py FAULTS FD PARENT`.

FAULTS is JSON: {"where": "fit" | "decode" | "score", "what": "oom" | "nan", "times": n}: the first n calls break; or
{"where": "engine"}: vllm is there, but does not start, and "auto" means it; {"where": "engine later"}: it starts, and is lost in
the middle of the second call; with "device", the device of this process is then of no more use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

FAULTS = json.loads(sys.argv.pop(1))


def sabotage() -> None:
    import torch

    from solver.infer import scoring
    from solver.infer.forward import Forward
    from solver.train import loop

    left = [FAULTS.get("times", 1)]

    def breaking(call: Callable[..., Any], spoil: Callable[[Any], Any]) -> Callable[..., Any]:
        def broken(*arguments: Any, **named: Any) -> Any:
            if left[0] <= 0:
                return call(*arguments, **named)
            left[0] -= 1
            if FAULTS["what"] == "oom":
                raise torch.OutOfMemoryError("CUDA out of memory: sabotage")
            return spoil(call(*arguments, **named))

        return broken

    if FAULTS.get("where") == "fit":
        loop.slot_losses = breaking(loop.slot_losses, lambda losses: losses * float("nan"))
    if FAULTS.get("where") == "decode":
        Forward._call = breaking(Forward._call, lambda result: result)  # type: ignore[method-assign]
    if FAULTS.get("where") == "score":
        scoring.Scorer._score = breaking(scoring.Scorer._score, lambda result: result)  # type: ignore[method-assign]


def sabotage_start() -> None:
    from solver.infer import registry
    from solver.infer.base import EngineLost
    from solver.infer.hf import HFEngine

    calls: list[int] = []

    class Broken(HFEngine):
        def __init__(self, base: Any, settings: Any, *_: Any) -> None:
            super().__init__(base, settings)

        def start(self, rank: int) -> None:
            if FAULTS["where"] == "engine":
                raise RuntimeError(f"no room for adapters of rank {rank}: sabotage")

        def sample(self, requests: Any, deadline: Any) -> Any:
            calls.append(len(requests))
            if len(calls) == 1:
                yield from super().sample(requests, deadline)
                return
            yield from super().sample(requests[:1], deadline)
            raise EngineLost("vLLM broke: sabotage")

    registry.ENGINES["vllm"] = Broken
    registry.auto_engine = lambda *_: ("vllm", "sabotage")
    if FAULTS.get("device"):
        registry.broken = lambda _: "the device refuses all work: sabotage"


if __name__ == "__main__":
    from solver.messages import Message, WorkerConfig
    from solver.worker import main

    real = main.load

    def load(config: WorkerConfig, send: Callable[[Message], None]) -> main.Backend:
        if FAULTS.get("where", "").startswith("engine"):
            sabotage_start()
        backend = real(config, send)
        sabotage()
        return backend

    main.main(load)
