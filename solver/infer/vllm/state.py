"""What the vLLM engines of one process share: the engine whose core runs, and how long starts and handovers took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from solver.infer.pace import Pace
from solver.infer.vllm.handover_costs import HandoverCosts

if TYPE_CHECKING:
    from solver.infer.vllm.engine import VllmEngine


@dataclass(eq=False)
class VllmState:
    """What the vLLM engines of one process share, because only one core can run in a process at a time."""

    starts: Pace = field(default_factory=Pace)  # seconds that starts of cores took, on the clock of the deadline
    handover_costs: HandoverCosts = field(default_factory=HandoverCosts)
    running: VllmEngine | None = None  # the engine whose core runs or sleeps
    graphs: bool = True  # whether to start cores with CUDA graphs; False once such a core did not start, or broke
