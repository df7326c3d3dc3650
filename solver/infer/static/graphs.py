"""Steps as CUDA graphs: a step is captured once for each number of columns, and replayed as one launch.

This module was not run on a GPU yet: the tests run the same steps without it, on a CPU. If a capture fails, the caller decodes in
another way (see `solver.infer.hf`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UPS = 2  # steps that run by themselves before a capture, so that libraries have made their plans and workspaces
MAX_GRAPHS = 16  # of one batch; the one that was captured first is dropped


class Repeater:
    """Runs `step(columns)` many times in a row. On a CUDA device from a graph, elsewhere by plain calls."""

    def __init__(self, step: Callable[[int], None], device: torch.device) -> None:
        self._step, self._device = step, device
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # of memory that all graphs use

    def captured(self, columns: int) -> bool:
        """Whether the next steps with this many columns need no capture."""
        return self._device.type != "cuda" or columns in self._graphs

    def run(self, columns: int, steps: int) -> None:
        """Do `steps` steps. A capture takes the place of none: the steps before it are real ones."""
        if self._device.type != "cuda":
            for _ in range(steps):
                self._step(columns)
            return
        if columns not in self._graphs:
            plain = min(steps, WARM_UPS)
            self._graphs[columns] = self._capture(columns, plain)
            steps -= plain
            if len(self._graphs) > MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
        for _ in range(steps):
            self._graphs[columns].replay()

    def _capture(self, columns: int, plain: int) -> torch.cuda.CUDAGraph:
        """Do `plain` steps one by one, then capture one without doing it."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(plain):
                self._step(columns)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # "thread_local": another thread of the process may ask the device something meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            self._step(columns)
        return graph
