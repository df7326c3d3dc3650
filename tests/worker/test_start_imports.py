"""What processes import: with the models that ship neither transformers nor torch's compiler, each of which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"transformers", "torch._dynamo", "torch.distributed.tensor", "sympy", "peft", "accelerate", "huggingface_hub"}
MAX_MODULES = 200  # beside those that torch imports by itself; 175 with torch 2.13

# Ends with a line of JSON: how many modules were imported beside torch's, and the names of all
PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import torch
before = set(sys.modules)
folder = Path({folder!r})
{code}
print(json.dumps([len(sys.modules.keys() - before), sorted(sys.modules)]))
"""

WORKER = """
from solver.config import load_settings
from solver.messages import WorkerConfig
from solver.worker.main import import_libraries, load
import_libraries()
settings = load_settings(overrides=["model.device=cpu", "model.dtype=float32", "train.steps=2", "infer.permutations=1"])
backend = load(WorkerConfig(settings, folder, Path(tempfile.mkdtemp())))
solver = backend.solver(0)
backend.facts()
"""

A_TASK = """
import math
import numpy as np
from solver.arc.task import Pair, Task
from solver.types import TaskPlan, TaskWork, WorkItem
grids = [np.array([[n, 1], [2, 0]], np.uint8) for n in range(3)]
task = Task("a", tuple(Pair(grid, grid) for grid in grids), (Pair(grids[0], None),))
work = TaskWork(task, TaskPlan(2, 8, 1))
outcomes = [outcome for outcome in solver.work(WorkItem("a", 0, (work,), math.inf)) if outcome.final]
assert outcomes[0].status == "complete" and outcomes[0].fit.steps == 2, outcomes
"""

EVALUATE = """
from solver.config import ModelSettings
from solver.model.load import load_base
from solver.pretrain.evaluate import evaluate
from solver.pretrain.fast import fast_states
states, _ = fast_states(load_base(folder, ModelSettings(dtype="float32", device="cpu")).model)
states(torch.arange(16)[None], torch.arange(16))
"""

PRETRAIN = """
from solver.pretrain.checkpoint import load_model
from solver.pretrain.command import PretrainOptions, make_target
from solver.pretrain.loop import LoopSettings
make_target(PretrainOptions(folder, None, LoopSettings(1.0), preset="tiny"))
load_model(folder)
"""


def imported(code: str, folder: Path) -> tuple[int, set[str]]:
    program = PROGRAM.format(folder=str(folder), code=code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    count, names = json.loads(done.stdout.splitlines()[-1])
    return count, set(names)


@pytest.mark.parametrize("code", [WORKER, WORKER + A_TASK, EVALUATE, PRETRAIN], ids=["start", "task", "evaluate", "pretrain"])
def test_a_model_with_cell_positions_needs_little(code: str, tiny_base: Path) -> None:
    count, names = imported(code, tiny_base)
    assert "solver.model.cell_decoder" in names
    assert HEAVY & names == set()
    assert count <= MAX_MODULES


def test_other_models_are_of_transformers(plain_base: Path) -> None:
    """So the test above would notice."""
    count, names = imported(WORKER, plain_base)
    assert "transformers" in names
    assert count > MAX_MODULES


def test_the_embedded_model_is_one_that_needs_little() -> None:
    from solver.config import ModelSettings
    from solver.model.folder import SHIPPED
    from solver.model.load import needs_transformers

    for folder in SHIPPED.values():
        assert not needs_transformers(folder, ModelSettings())
        assert needs_transformers(folder, ModelSettings(quantization="nf4"))
