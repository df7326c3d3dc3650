"""What one worker process remembers from one trainer or engine to the next: made when it starts, and passed to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.infer.base import EngineState
from solver.train.base import TrainerState


@dataclass(frozen=True)
class WorkerContext:
    """For one base model."""

    trainers: TrainerState = field(default_factory=TrainerState)
    engines: EngineState = field(default_factory=EngineState)
