"""`solver profile`: measures what a model costs on this machine, with the trainer and the engine that a run would use."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from solver.budget.planner import full_plan
from solver.budget.prior import known_device, model_of, step_flops
from solver.budget.profile import Machine, Model, Profile, Row, Variant
from solver.commands.profile_bench import Bench, wait_for
from solver.config import Settings
from solver.errors import InputError
from solver.host import commit, hardware, versions
from solver.messages import WorkerConfig
from solver.types import Deadline

LENGTHS = (512, 1024, 2048, 4096, 8192)  # tokens
STEPPING_SECONDS = 3.0  # of optimizer steps to time, at each length
STEPPING_SHARE = 0.25  # or this share of the length's part of the time left, if that is less
GROWTH = 1.5  # the time of reading is assumed to grow with the length to this power

Quantization = Literal["none", "nf4"]
Tell = Callable[[str], None]  # is given one line


@dataclass(frozen=True)
class ProfileOptions:
    """What `solver profile` measures. `settings` are as for a run; `seconds` (None: no limit) is the time for everything."""

    settings: Settings
    model: Path | None = None
    machine: str | None = None  # name of the preset
    quantizations: tuple[Quantization, ...] = ("none",)
    lengths: tuple[int, ...] = LENGTHS
    seconds: float | None = None


def profile(options: ProfileOptions, tell: Tell) -> Profile:
    """Measure. If memory or time runs out at a length, the note of its row says so.

    Raises InputError if the model, the device or none of the quantisations can be used.
    """
    import torch

    from solver.model.dtype import pick_device, pick_dtype

    deadline = Deadline.after(math.inf if options.seconds is None else options.seconds)
    model = model_of(options.model)
    device = pick_device(options.settings.model.device)
    if options.settings.model.threads:
        torch.set_num_threads(options.settings.model.threads)
    tell(f"profiling {model.name} ({model.parameters:,} weights) on {device}")
    machine = describe_machine(device, pick_dtype(options.settings.model, device), options)
    imports = _import_seconds(options)
    variants: list[Variant] = []
    errors: list[InputError] = []
    for place, quantization in enumerate(options.quantizations):
        share = deadline.remaining() / (len(options.quantizations) - place)
        try:
            variants.append(_variant(options, quantization, model, machine, imports, Deadline.after(share), tell))
        except InputError as error:
            tell(f"{quantization}: {error}")
            errors.append(error)
    if not variants:
        raise errors[0]
    return Profile(
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%S"),
        commit=commit(),
        versions=versions(),
        machine=machine,
        model=model,
        variants=tuple(variants),
    )


def describe_machine(device: Any, dtype: Any, options: ProfileOptions) -> Machine:
    """This machine. Peak and bandwidth come from the data sheet for a known GPU in 16 bits, and are measured otherwise."""
    import torch

    from solver.model.dtype import matmul_seconds

    host = hardware({})
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else host["cpu"]
    sheet = known_device(name) if cuda and dtype.itemsize == 2 else None
    if sheet is not None:
        flops, bandwidth, source = sheet.peak_flops, sheet.bandwidth, sheet.source
    else:
        side = 8192 if cuda else 1024
        flops, bandwidth = 2.0 * side**3 / matmul_seconds(dtype, device, side), _bandwidth(device)
        source = f"measured: a product of two {side} x {side} matrices in {str(dtype).removeprefix('torch.')}, a copy of 256 MiB"
    return Machine(
        preset=options.machine or "",
        kind="cuda" if cuda else "cpu",
        device=name,
        devices=options.settings.workers.devices or torch.cuda.device_count() if cuda else 1,
        cores=host["cores"],
        threads=torch.get_num_threads(),
        memory=torch.cuda.get_device_properties(device).total_memory if cuda else host["memory"],
        peak_flops=flops,
        bandwidth=bandwidth,
        source=source,
    )


def _bandwidth(device: Any) -> float:
    """Bytes/s of a copy, read and written, the best of three."""
    import torch

    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * source.nbytes / best


_IMPORTS = "import pickle, sys; from solver.worker.main import import_libraries; import_libraries(pickle.load(sys.stdin.buffer))"


def _import_seconds(options: ProfileOptions) -> float:
    """From the creation of a process until it has imported what a worker imports."""
    config = WorkerConfig(options.settings, options.model, Path())
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True, input=pickle.dumps(config))
    return time.perf_counter() - began


# -- one quantisation


def _variant(
    options: ProfileOptions,
    quantization: Quantization,
    model: Model,
    machine: Machine,
    imports: float,
    deadline: Deadline,
    tell: Tell,
) -> Variant:
    from solver.infer.registry import choose_engine, make_engine
    from solver.model.load import load_base
    from solver.train.registry import choose_trainer, fits_lora, make_trainer
    from solver.worker.context import WorkerContext

    settings = options.settings
    with tempfile.TemporaryDirectory(prefix="solver-profile-") as scratch:
        quantised = settings.model.model_copy(update={"quantization": quantization})
        base, loading = _timed(
            lambda: load_base(options.model, quantised, cache=Path(scratch) / "weights"), "the model", quantization
        )
        context = WorkerContext()
        trainers = context.trainers
        trainer, training = _timed(
            lambda: make_trainer(base, settings.train, Path(scratch), trainers), "the trainer", quantization
        )
        served = fits_lora(settings.train)
        engine, serving = _timed(
            lambda: make_engine(base, settings.infer, settings.train.rank, lora=served, state=context.engines),
            "the engine",
            quantization,
        )
        name = choose_trainer(base, settings.train, trainers)[0]
        variant = Variant(
            quantization=quantization,
            dtype=str(base.dtype).removeprefix("torch."),
            trainer=name,
            engine=choose_engine(base, settings.infer, served, context.engines)[0],
            rank=0 if name == "full" else settings.train.rank,
            batch=settings.train.batch_sequences,
            views=full_plan(settings).views,
            checkpointing=settings.train.checkpointing,
            context=base.context,
            import_seconds=imports,
            load_seconds=loading,
            trainer_seconds=training,
            engine_seconds=serving,
            fit_seconds=0.0,
            rows=(),
        )
        tell(f"{quantization}: loaded in {loading:.1f} s as {variant.dtype}; trainer {variant.trainer}, engine {variant.engine}")
        bench = Bench(base, trainer, engine, settings, variant)
        rows = tuple(_rows(bench, options.lengths, model, machine, deadline, tell))
        return variant.model_copy(update={"fit_seconds": bench.fit_seconds, "rows": rows})


def _timed(make: Callable[[], Any], what: str, quantization: str) -> tuple[Any, float]:
    """The result of `make`, and its seconds. Raises InputError if memory runs out; `what` names the result."""
    from solver.model.memory import is_out_of_memory, out_of_memory_line

    began = time.perf_counter()
    try:
        made = make()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"not enough memory for {what} with quantisation {quantization}: {out_of_memory_line(error)}") from None
    return made, time.perf_counter() - began


def _rows(bench: Bench, lengths: Sequence[int], model: Model, machine: Machine, deadline: Deadline, tell: Tell) -> Iterator[Row]:
    """One row per length, the shortest first, each told as soon as it is known."""
    due = sorted(set(lengths))
    last = 0
    for place, tokens in enumerate(due):
        left = deadline.remaining()
        reach = bench.writing + bench.reading * (tokens / last) ** GROWTH if last else 0.0
        if tokens > bench.context:
            row = Row(tokens=tokens, note=f"skipped: the context ends at {bench.context:,} tokens")
        elif left <= 0:
            row = Row(tokens=tokens, note="skipped: the time of --seconds is up")
        elif left <= reach:
            row = Row(tokens=tokens, note=f"skipped: it would take about {reach:.0f} s, and {left:.0f} s are left")
        else:
            row = bench.row(tokens, min(STEPPING_SECONDS, STEPPING_SHARE * left / (len(due) - place)), deadline)
            last = tokens
        if row.step_seconds and machine.peak_flops:
            row = row.model_copy(update={"mfu": step_flops(model, bench.variant, tokens) / row.step_seconds / machine.peak_flops})
        tell(f"{bench.variant.quantization}: {tokens:,} tokens: {_in_words(row, bench.variant)}")
        yield row


def _in_words(row: Row, variant: Variant) -> str:
    parts = []
    if row.step_seconds:
        parts.append(f"{row.step_seconds:.3f} s a step, {variant.batch * row.tokens / row.step_seconds:,.0f} tokens/s")
    if row.prefill_seconds is not None:
        parts.append(f"prefill {row.prefill_seconds:.3f} s")
    parts += [f"{what} {rate:,.0f}/s" for what, rate in (("decode", row.decode_rate), ("search", row.search_rate)) if rate]
    return ", ".join([*parts, *([row.note] if row.note else [])]) or "nothing measured"
