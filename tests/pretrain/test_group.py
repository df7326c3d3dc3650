"""Several processes that train one model, on the CPU: the steps of one process on all of their batches."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.model.build import Shape, new_model
from solver.pretrain.checkpoint import read_state
from solver.pretrain.fast import fast_states
from solver.pretrain.group import Group, joined_group
from solver.pretrain.loop import LoopSettings, batch_losses, train
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import pack
from solver.pretrain.supply import supply
from solver.pretrain.target import GridTarget

SETTINGS = SamplerSettings(batch_tokens=1024, block_batches=3, max_tokens=512)
LOOP = LoopSettings(minutes=10 / 60, cooldown=0, warmup_steps=1, lr=1e-3)
SIZE = 2


def sampler() -> Sampler:
    tasks = load_tasks("arc1:training").tasks[:40]
    store = pack((task.id, ("even", "odd")[place % 2], [*task.train, *task.test]) for place, task in enumerate(tasks))
    return Sampler(store, {}, grid_codec(), SETTINGS, 0)


def target() -> GridTarget:
    return GridTarget(new_model(Shape(hidden=32, layers=2, heads=2, ffn=64)))


def member(out: Path, resume: Path | None, minutes: float) -> None:
    """One process of the group; torchrun's environment says which."""
    torch.set_num_threads(1)
    seconds = itertools.count()
    settings = LoopSettings(**(LOOP.__dict__ | {"minutes": minutes}))
    with joined_group("cpu") as group:
        mine = target()
        if resume is not None:
            weights = load_file(resume / "weights-00.safetensors")
            mine.model.load_state_dict(weights, strict=False)
        validation = [next(sampler().batches(50, 0))[2]]
        train(mine, sampler(), validation, settings, out, resume, 0, print, lambda: next(seconds) / 10, group)
        torch.save([p.detach() for p in mine.model.parameters()], out / f"rank{group.rank}.pt")


def run_group(out: Path, resume: Path | None, minutes: float) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    out.mkdir()
    arguments = [sys.executable, __file__, str(out), str(resume or ""), str(minutes)]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(SIZE), "OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(arguments, env=shared | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(SIZE)]
    assert [process.wait(300) for process in started] == [0] * SIZE


def batches_of_all() -> list[list[Batch]]:
    """What each step of the group should see, drawn by one process."""
    drawn, steps = sampler(), []
    for first in range(0, 20 * SIZE, SIZE):
        steps += [list(batches) for batches in zip(*(drawn.block(first + rank) for rank in range(SIZE)), strict=False)]
    return steps


@pytest.mark.slow
def test_a_group_steps_by_the_mean_gradient_of_its_batches_and_resumes_exactly(tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    run_group(whole, None, 0.1)
    left, right = (torch.load(whole / f"rank{rank}.pt") for rank in range(SIZE))
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    state = read_state(whole / "latest")
    assert state is not None
    steps = state["position"]["steps"]
    assert steps > 4

    alone = target()
    states, piece = fast_states(alone.model)
    optimizers = alone.optimizers(1e-3, LOOP.weight_decay)
    tokens = 0
    for batches in batches_of_all()[:steps]:
        for batch in batches:
            tokens += batch.tokens
            for loss, _ in batch_losses(states, alone.model.lm_head, batch, piece, torch.device("cpu")):
                (loss / SIZE).backward()
        torch.nn.utils.clip_grad_norm_(alone.model.parameters(), LOOP.clip)
        for optimizer in optimizers:
            optimizer.step()
        alone.model.zero_grad()
    assert state["position"]["tokens"] == tokens == sum(state["position"]["by_source"].values())
    for mine, theirs in zip(alone.model.parameters(), left, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)

    run_group(rest, whole / "latest", 0.03)
    after = read_state(rest / "latest")
    assert after is not None
    assert after["position"]["steps"] > steps
    seen = sum(b.tokens for batches in batches_of_all()[: after["position"]["steps"]] for b in batches)
    assert after["position"]["tokens"] == seen
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert sum("held_out_loss" in line for line in lines) == 1  # the first process alone


@pytest.mark.slow
def test_blocks_of_a_group_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(Group, "maxima", lambda self, values: [max(values[0], -min(lengths))])
    drawn = sampler()
    lengths[:] = [len(drawn.block(0)), len(drawn.block(1))]
    for rank in range(SIZE):
        for workers in (0, 1):
            stream = supply(drawn, 0, 0, workers, Group(rank, SIZE))
            made = list(itertools.islice(stream, min(lengths)))
            assert made[-1][:2] == (SIZE, 0)
            for (_, _, batch), expected in zip(made, drawn.block(rank), strict=False):
                assert (batch.ids == expected.ids).all()
            stream.close()


def test_a_process_alone_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_group("cpu") as group:
        assert (group.rank, group.size, group.leads) == (0, 1, True)
        group.wait()
        assert group.maxima([1.0, 2.0]) == group.sums([1.0, 2.0]) == [1.0, 2.0]
        p = torch.nn.Parameter(torch.ones(2))
        group.mean_gradients([p])
        assert p.grad is None


if __name__ == "__main__":
    member(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None, float(sys.argv[3]))
