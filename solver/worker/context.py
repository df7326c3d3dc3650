"""What a worker process remembers across the trainers and engines that it makes. It is made at the start and passed on."""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.infer.base import EngineState
from solver.train.base import TrainerState


@dataclass(frozen=True)
class WorkerContext:
    """The memory of one worker process, for one base model."""

    trainers: TrainerState = field(default_factory=TrainerState)
    engines: EngineState = field(default_factory=EngineState)
