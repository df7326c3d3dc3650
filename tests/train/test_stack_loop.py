"""Fits of many tasks in one step: their batches, the optimizer step on the device, and the loop that reads it late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from solver.config import ModelSettings, TrainSettings
from solver.model.adapters import apply_adapter
from solver.model.load import Base, load_base
from solver.train import compiler, stack_loop
from solver.train.compiler import COMPILE_SECONDS, CompilerState, PassCompiler
from solver.train.lora import LoraFitTarget, LoraTrainer
from solver.train.stack_loop import StackLoop
from solver.train.stack_update import StackState, update_slots
from solver.train.task_batches import (
    MIN_WIDTH,
    PADDING_SHARE,
    PackedSequence,
    PassTensors,
    TaskBatch,
    task_passes,
    width_of,
)
from solver.train.weights import AdamW, FlatWeights, clip_gradients
from solver.types import NEVER, Deadline, Fit, FitJob, TokenSequence

CPU = torch.device("cpu")
SETTINGS = TrainSettings(rank=8, alpha=8, lr=1e-2, batch_sequences=2, batch_tokens=1024)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))


def sequence(rng: np.random.Generator, length: int) -> TokenSequence:
    weights = np.zeros(length, np.float32)
    weights[length // 2 :] = rng.choice([0.5, 1.0], length - length // 2)
    return TokenSequence(rng.integers(0, 10, length).astype(np.int32), weights)


def job(name: str, seed: int, steps: int, lengths: tuple[int, int] = (12, 40), count: int = 4) -> FitJob:
    rng = np.random.default_rng(seed)
    return FitJob(name, tuple(sequence(rng, int(rng.integers(*lengths))) for _ in range(count)), steps, seed=seed)


def loop_of(base: Base, slots: int, scratch: Path, **changes: Any) -> StackLoop:
    settings = SETTINGS.model_copy(update=changes)
    target = LoraFitTarget(base, settings, slots)
    return StackLoop(base, target, settings, scratch, compiler_of(target.model, settings.compile))


def compiler_of(model: Any, wanted: bool | None) -> PassCompiler:
    return PassCompiler(model, wanted, CompilerState.of(CPU, wanted))


def logits(base: Base, fit: Fit) -> torch.Tensor:
    with torch.no_grad():
        return apply_adapter(base, fit.adapter)(torch.arange(60).reshape(2, 30) % 10).logits


# --- batches


@given(st.integers(0, 20_000))
def test_widths_waste_a_fifth_at_most_and_are_four_to_a_doubling(tokens: int) -> None:
    width = width_of(tokens)
    assert tokens <= width
    assert width == MIN_WIDTH or width - tokens < width / 5 + 1
    assert width_of(width) == width
    assert len({width_of(n) for n in range(max(tokens, MIN_WIDTH) + 1, 2 * max(tokens, MIN_WIDTH) + 1, 7)}) <= 5


@given(st.lists(st.lists(st.integers(1, 70), min_size=3, max_size=3), min_size=1, max_size=20), st.integers(64, 2000))
def test_every_row_is_in_one_pass_of_bounded_size(lengths: list[list[int]], limit: int) -> None:
    rng = np.random.default_rng(0)
    batches = [TaskBatch.of(slot, [PackedSequence.of(sequence(rng, 2 * n)) for n in task]) for slot, task in enumerate(lengths)]
    passes = task_passes(batches, limit)
    rows = [(batch.slot, id(row)) for one in passes for batch in one.batches for row in batch.sequences]
    assert sorted(rows) == sorted((batch.slot, id(row)) for batch in batches for row in batch.sequences)
    for one in passes:
        tasks, count, width = one.shape
        assert one.tokens <= limit or (tasks, count) == (1, 1)
        assert all(len(batch.sequences) == count and batch.width <= width for batch in one.batches)
        padding = sum(count * (width - batch.width) for batch in one.batches)
        assert padding <= PADDING_SHARE * limit
        tensors = PassTensors.of(one, pad=13)
        for task, batch in enumerate(one.batches):
            for place, row in enumerate(batch.sequences):
                assert (tensors.columns[:, task, place, : row.read].numpy() == row.columns).all()
    shared = [one for one in passes if len(one.batches[0].sequences) == 3]
    # a pass ends because it is full, or because the widths change
    assert len(shared) <= len({batch.width for one in shared for batch in one.batches}) + 2 * sum(map(width_sum, shared)) / limit


def width_sum(one: Any) -> int:
    return sum(len(batch.sequences) * one.width for batch in one.batches)


# --- the optimizer step


def state_and_reference(slots: int) -> tuple[FlatWeights, StackState, FlatWeights, AdamW]:
    values = torch.randn(slots, 5, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (FlatWeights([torch.nn.Parameter(values.clone())], slots) for _ in range(2))
    return ours, StackState(ours, 1.0, 0.1, 1.0), theirs, AdamW(theirs, 0.1)


def test_an_update_is_that_of_one_task_alone() -> None:
    ours, state, theirs, reference = state_and_reference(3)
    generator = torch.Generator().manual_seed(1)
    rates = torch.tensor([[0.1, 0.02, 0.01], [1.0, 1.0, 1.0]])
    for _ in range(5):
        state.begin_step()
        gradient = torch.randn(ours.grads.shape, generator=generator)
        ours.grads.copy_(gradient)
        theirs.grads.copy_(gradient)
        state.losses.fill_(2.5)
        losses, norms = state.update(update_slots, rates)
        torch.testing.assert_close(norms, clip_gradients(theirs, 1.0))
        assert losses.tolist() == [2.5] * 3
        reference.step(rates[0])
        torch.testing.assert_close(ours.values, theirs.values, atol=1e-6, rtol=1e-5)


def test_slots_that_sit_out_keep_everything_and_go_on_later() -> None:
    ours, state, theirs, reference = state_and_reference(2)
    generator = torch.Generator().manual_seed(1)
    for taking in (1.0, 0.0, 0.0, 1.0):
        gradient = torch.randn(ours.grads.shape, generator=generator)
        ours.grads.copy_(gradient)
        before = ours.values.clone()
        state.update(update_slots, torch.tensor([[0.1, 0.1 * taking], [1.0, taking]]))
        assert torch.equal(ours.values[1], before[1]) == (not taking)
        if taking:  # as if the other steps had never been
            theirs.grads.copy_(gradient)
            clip_gradients(theirs, 1.0)
            reference.step(torch.tensor([0.0, 0.1]))
            torch.testing.assert_close(ours.values[1], theirs.values[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("loss", "gradient", "scale"), [("nan", 1.0, 1.0), (2.0, "inf", 1.0), (2.0, "inf", 4.0)])
def test_what_is_not_finite_stops_or_rescales_its_slot_alone(loss: Any, gradient: Any, scale: float) -> None:
    ours, state, _, _ = state_and_reference(2)
    state.scale.fill_(scale)
    rates = torch.tensor([[0.1, 0.1], [1.0, 1.0]])
    first = ours.values.clone()
    ours.grads.fill_(1.0)
    state.losses.fill_(2.0)
    state.update(update_slots, rates)
    second = ours.values.clone()
    for _ in range(2):
        ours.grads.fill_(1.0)
        ours.grads[1] = float(gradient)
        state.losses.copy_(torch.tensor([2.0, float(loss)]))
        state.update(update_slots, rates)
    assert torch.equal(ours.values[1], second[1] if loss == 2.0 else first[1])
    assert not torch.equal(ours.values[0], second[0])
    assert state.scale.tolist() == [scale, 1.0]
    ours.grads.fill_(1.0)
    state.losses.fill_(2.0)
    before = ours.values.clone()
    state.update(update_slots, rates)
    assert torch.equal(ours.values[1], before[1])  # after a second overflow at scale 1, too
    assert ours.values.isfinite().all()


# --- the loop


class Operations(TorchDispatchMode):
    """Counts dispatched operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.names.append(operation._schema.name)
        return operation(*arguments, **(named or {}))


def test_a_step_of_64_tasks_dispatches_hardly_more_operations_than_a_step_of_one(base: Base, tmp_path: Path) -> None:
    counts = []
    for tasks in (1, 64):
        loop = loop_of(base, tasks, tmp_path, batch_tokens=16384)
        operations, real = Operations(), loop._step

        def counted(*arguments: Any, real: Callable[..., Any] = real, operations: Operations = operations) -> Any:
            with operations:
                return real(*arguments)

        loop._step = counted  # type: ignore[method-assign]
        fits = loop.fit([job(f"a{i}", i, 1, (20, 30)) for i in range(tasks)], NEVER)
        assert {fit.status for fit in fits} == {"complete"}
        counts.append(len(operations.names))
        # what would wait for a device: reading numbers, and sizes that depend on numbers
        assert not {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "equal", "masked_select")} & {
            *operations.names
        }
        # tensors made from numbers of the host: the three of the only pass, which go through pinned memory
        assert operations.names.count("aten::lift_fresh") == 3
    assert 0 < counts[1] <= 1.2 * counts[0]


def test_the_host_looks_every_few_steps_and_counts_the_same(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = job("g", 1, 40)
    bad = job("b", 4, 40, count=40)
    broken = TokenSequence(bad.sequences[0].ids, np.where(bad.sequences[0].weights > 0, np.nan, 0).astype(np.float32))
    jobs = [good, replace(bad, sequences=(*bad.sequences[1:], broken)), job("s", 3, 5)]
    reads = record_calls(monkeypatch, StackLoop, "_read")
    at_rest = Deadline(1.0, lambda: 0.0)  # no time passes, so nothing but the number of steps calls for a look
    late = loop_of(base, 3, tmp_path / "late").fit(jobs, at_rest)
    assert [len(steps) for _, steps in reads] == [1, 16, 16, 7]
    monkeypatch.setattr(stack_loop, "MAX_UNCHECKED", 1)
    at_once = loop_of(base, 3, tmp_path / "once").fit(jobs, at_rest)
    assert [fit.reason for fit in late] == ["steps", "nan", "steps"]
    assert 0 < late[1].steps < 20
    for one, other in zip(late, at_once, strict=True):
        assert (one.status, one.steps, one.tokens, one.first_loss) == (other.status, other.steps, other.tokens, other.first_loss)
        assert one.final_loss == other.final_loss
        assert torch.equal(logits(base, one), logits(base, other))


def test_the_deadline_holds_for_steps_that_were_not_read(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which a step takes a second, and a host that only waits for it when it reads."""
    now = [0.0]
    real = StackLoop._read

    def read(self: StackLoop, unread: Any) -> None:
        now[0] += len(unread)
        real(self, unread)

    monkeypatch.setattr(StackLoop, "_read", read)
    monkeypatch.setattr(stack_loop, "CHECK_SECONDS", 6.0)
    jobs = [job(f"d{i}", i, 1000, (20, 21)) for i in range(2)]
    fits = loop_of(base, 2, tmp_path).fit(jobs, Deadline(30.5, lambda: now[0]))
    assert [fit.reason for fit in fits] == ["deadline", "deadline"]
    assert [fit.steps for fit in fits] == [30, 30]
    assert now[0] == 30.0


def test_batches_whose_gradient_overflowed_are_taken_again(tiny_base: Path, tmp_path: Path) -> None:
    half = load_base(tiny_base, ModelSettings(dtype="float16", device="cpu"))
    jobs = [job("o", 1, 6), job("p", 2, 6)]
    loop = loop_of(half, 2, tmp_path)
    usual = loop.fit(jobs, NEVER)
    loop._first_scale = 2.0**40
    after = loop.fit(jobs, NEVER)
    for one, other in zip(after, usual, strict=True):
        assert (one.status, one.steps, one.tokens) == ("complete", 6, other.tokens)
        assert one.final_loss < one.first_loss


def test_large_vocabularies_get_logits_where_a_loss_needs_them(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job("v", 1, 4), job("w", 2, 4, (30, 70))]
    dense = loop_of(base, 2, tmp_path / "dense").fit(jobs, NEVER)
    monkeypatch.setattr(stack_loop, "DENSE_VOCABULARY", 0)
    passes = record_calls(monkeypatch, stack_loop, "slot_losses")
    sparse = loop_of(base, 2, tmp_path / "sparse").fit(jobs, NEVER)
    assert passes
    for one, other in zip(dense, sparse, strict=True):
        assert one.final_loss == pytest.approx(other.final_loss, abs=1e-5)
        torch.testing.assert_close(logits(base, one), logits(base, other), atol=1e-4, rtol=0)


def test_memory_that_runs_out_halves_the_passes_once(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = StackLoop._dense_losses, []
    limit = 400

    def small_memory(self: StackLoop, tensors: PassTensors) -> torch.Tensor:
        sizes.append(tensors.targets.numel())
        if sizes[-1] > limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(self, tensors)

    monkeypatch.setattr(StackLoop, "_dense_losses", small_memory)
    jobs = [job(f"m{i}", i, 3, (60, 64), count=2) for i in range(4)]
    loop = loop_of(base, 4, tmp_path, batch_tokens=600)
    assert [(fit.status, fit.steps) for fit in loop.fit(jobs, NEVER)] == [("complete", 3)] * 4
    assert max(sizes[1:]) <= 300
    limit = 10
    assert [(fit.status, fit.reason, fit.adapter) for fit in loop.fit(jobs, NEVER)] == [("failed", "oom", None)] * 4


def test_dropout_and_checkpointing_work_in_a_stack(base: Base, tmp_path: Path) -> None:
    jobs = [job("c", 1, 4), job("e", 2, 4)]
    kept = loop_of(base, 2, tmp_path / "kept").fit(jobs, NEVER)
    again = loop_of(base, 2, tmp_path / "again", checkpointing=True).fit(jobs, NEVER)
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(logits(base, one), logits(base, other), atol=1e-5, rtol=0)
    dropped = loop_of(base, 2, tmp_path / "dropped", dropout=0.3).fit(jobs, NEVER)
    assert [fit.status for fit in dropped] == ["complete"] * 2
    assert not torch.allclose(logits(base, dropped[0]), logits(base, kept[0]), atol=1e-4)


# --- when passes are compiled


def test_compiling_waits_until_plain_steps_have_cost_as_much(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function, **named: made.append(named) or function)
    monkeypatch.setattr(compiler, "refusal", lambda device: "")
    model = LoraFitTarget(base, SETTINGS, 2).model
    when_it_pays = compiler_of(model, None)
    when_it_pays.observe(0.9 * COMPILE_SECONDS)
    assert not when_it_pays.compile_if_due(1e6)
    when_it_pays.observe(0.2 * COMPILE_SECONDS)
    assert not when_it_pays.compile_if_due(COMPILE_SECONDS)  # the fit would end meanwhile
    assert when_it_pays.compile_if_due(1e6)
    assert not when_it_pays.compile_if_due(1e6)  # once
    assert all(named["fullgraph"] for named in made)
    assert not compiler_of(model, False).compile_if_due(1e6)
    assert compiler_of(LoraFitTarget(base, SETTINGS, 2).model, True).compile_if_due(1.0)


def test_stacks_of_all_sizes_share_the_seconds_of_plain_steps(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "refusal", lambda device: "")
    trainer = LoraTrainer(base, SETTINGS.model_copy(update={"stack": 3}), tmp_path)
    spent = []
    for count in (2, 3):
        list(trainer.fit([job(f"{count}{name}", 1, 2) for name in range(count)], NEVER))
        spent.append(trainer._compiling.plain_seconds)
    assert 0 < spent[0] < spent[1]


def test_without_a_gpu_triton_or_a_c_compiler_nothing_is_compiled_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    assert compiler.refusal(CPU) == "passes are compiled on CUDA devices"
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert compiler.refusal(cuda) == "triton is not installed"
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    assert "no C compiler" in compiler.refusal(cuda)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert compiler.refusal(cuda) == ""


@pytest.mark.parametrize("when", ["asked", "layer", "update"])
def test_a_compiler_that_fails_costs_no_fit(
    when: str, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(function: Any, **_: Any) -> Any:
        def failing(*arguments: Any, **named: Any) -> Any:
            raise RuntimeError("no toolchain\nat all")

        if when == "asked":
            raise RuntimeError("no toolchain\nat all")
        return failing if (function is update_slots) == (when == "update") else function

    jobs = [job("x", 1, 4), job("y", 2, 4)]
    plain = loop_of(base, 2, tmp_path / "plain").fit(jobs, NEVER)
    monkeypatch.setattr(torch, "compile", compiled)
    loop = loop_of(base, 2, tmp_path / "compiled", compile=True)
    for one, other in zip(loop.fit(jobs, NEVER), plain, strict=True):
        assert (one.status, one.steps, one.final_loss) == ("complete", 4, other.final_loss)
        assert torch.equal(logits(base, one), logits(base, other))
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning == "compiler: fits go on without it: RuntimeError: no toolchain"


def test_seconds_of_compiling_do_not_count_as_pace(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second, and the one that compiles takes 100 more; after it time is left for 80 steps."""
    now, shapes = [0.0], set()
    real = StackLoop._pass

    def slow(self: StackLoop, state: Any, tensors: PassTensors) -> None:
        shape = tensors.columns.shape[1:]
        now[0] += 100.0 if shape[-1] == 47 else 1.0
        shapes.add(shape)
        real(self, state, tensors)

    monkeypatch.setattr(torch, "compile", lambda function, **named: function)
    monkeypatch.setattr(StackLoop, "_pass", slow)
    loop = loop_of(base, 2, tmp_path, compile=True)
    fits = loop.fit([job("t", 1, 1000, (20, 21)), job("u", 2, 1000, (20, 21))], Deadline(180.5, lambda: now[0]))
    assert {shape for shape in shapes if shape[-1] == 47} == {(13, 3, 47)}
    assert [(fit.reason, fit.steps) for fit in fits] == [("deadline", 80)] * 2


def test_the_trainer_takes_stacks_for_several_tasks_alone(base: Base, tmp_path: Path) -> None:
    trainer = LoraTrainer(base, SETTINGS.model_copy(update={"stack": 2}), tmp_path)
    assert not isinstance(trainer._loop, StackLoop)
    list(trainer.fit([job("k", 1, 1), job("l", 2, 1)], NEVER))
    assert isinstance(trainer._loop, StackLoop)
