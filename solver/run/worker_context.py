"""What one worker process remembers from one trainer or engine to the next: made when it starts, and passed to whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from solver.config import Settings
from solver.infer.base import EngineState
from solver.train.base import TrainerState


@dataclass(frozen=True)
class WorkerContext:
    """For one base model."""

    trainers: TrainerState = field(default_factory=TrainerState)
    engines: EngineState = field(default_factory=EngineState)

    @classmethod
    def of(cls, settings: Settings, adapter: Path | None = None) -> Self:
        """Of a worker that has made nothing yet. `adapter`: the folder of the LoRA weights that every fit starts from, if any."""
        because = ""
        if adapter is not None:
            because = "fits start from a LoRA adapter"
        elif settings.infer.engine == "vllm":
            because = "the engine serves LoRA alone"
        return cls(TrainerState(lora_because=because))
