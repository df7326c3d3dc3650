"""The worker process, `python -m solver.worker.main FD PARENT`, which the local executor starts.

It loads the base model once, then works on one item at a time and sends the outcome of every task as soon as it is known. It ends
when its parent does, and never touches the ledger or the submission.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from solver.budget.backoff import smaller_item, smaller_settings
from solver.child_process import WarningHandler, describe_error, line_to_parent, write_output_to
from solver.errors import InputError, ProcessBroken
from solver.messages import (
    Changed,
    Heartbeat,
    ItemDone,
    ItemFailed,
    Message,
    Ready,
    StartFailed,
    Turns,
    VllmLost,
    Warned,
    WorkerConfig,
    WorkerFacts,
)
from solver.types import AdapterRef, TaskOutcome, WorkItem
from solver.worker.device_turns import DeviceTurns
from solver.worker.solve import Solver

BEAT = 1.0  # seconds between heartbeats
START = "start"  # the id of an adapter that fits start from


@dataclass(frozen=True)
class Backend:
    """What `load` gives: solvers for any number of halvings (see `budget.backoff`), and facts about them."""

    solver: Callable[[int], Solver]
    parts: dict[str, float]  # seconds of each part of `load`, and of the first solver
    facts: Callable[[], WorkerFacts]
    peak_memory: Callable[[], int]  # bytes of host and device together, with the process of an external trainer
    broken: Callable[[], str] = lambda: ""  # why the device refuses all work of this process; empty: it works


def _discard(_: Message) -> None:
    """In place of a connection, for callers without a supervisor."""


def load(config: WorkerConfig, send: Callable[[Message], None] = _discard) -> Backend:
    """Load the base model and make trainer and engine. Raises InputError if the model or its adapter cannot be used.

    `send` tells the supervisor what changes later.
    """
    parts: dict[str, float] = {}
    with _timed(parts, "imports", send):
        import_libraries(config)
        import torch

        from solver.infer.base import Engine, EngineLost
        from solver.infer.registry import choose_engine, make_engine, replace_engine
        from solver.model import threads
        from solver.model.load import load_base
        from solver.model.lora import check_fits
        from solver.model.memory import broken, peak_memory
        from solver.train.registry import choose_trainer, fits_lora, make_trainer
        from solver.worker.context import WorkerContext
        from solver.worker.device_plan import WorkerDevicePlan, needs_no_weights

    settings = config.settings
    if settings.model.threads:
        torch.set_num_threads(settings.model.threads)
    else:
        threads.govern()
    cache = config.scratch / "weights"
    context = WorkerContext()
    if config.vllm_lost:
        context.engines.vllm_given_up = f"vllm failed in an earlier worker of this run: {config.vllm_lost}"
    with _timed(parts, "model", send):
        base = load_base(config.model, settings.model, not needs_no_weights(config.model, settings, cache, context), cache)
    start = None
    if config.adapter is not None:
        check_fits(base, config.adapter)
        start = AdapterRef(START, config.adapter.absolute(), "lora")
    cuda = base.device.type == "cuda"
    device_plan = WorkerDevicePlan.of(base, settings, context)
    lora = fits_lora(settings.train)
    turns: Turns | None = None  # of the first solver, once it is made

    def solver(halvings: int) -> Solver:
        nonlocal turns
        smaller = smaller_settings(settings, halvings)
        device_plan.begin()
        with _timed(parts, "trainer", send):
            trainer = make_trainer(base, smaller.train, config.scratch, context.trainers, device_plan.fit_fraction)
            device_plan.rest(trainer)
        rank = 0 if halvings else settings.train.rank
        with _timed(parts, "engine", send):
            engine = make_engine(base, smaller.infer, rank, device_plan.plan, device_plan.sleeps, lora, context.engines)
        device_turns = device_plan.device_turns(engine)
        if not halvings:
            turns = device_plan.turns(trainer, engine, config.scratch)

        def another(lost: EngineLost) -> tuple[Engine, DeviceTurns | None]:
            send(VllmLost(str(lost)))  # at once: the next line may find that this process is of no more use
            replacement = replace_engine(base, smaller.infer, lost, context.engines)
            send(Changed(facts()))
            return replacement, device_plan.device_turns(replacement)

        longest = min(base.context, smaller.model.context)
        return Solver(smaller, base.codec, longest, trainer, engine, device_turns=device_turns, another=another, start=start)

    def facts() -> WorkerFacts:
        trainer, why_trainer = choose_trainer(base, settings.train, context.trainers)
        engine, why_engine = choose_engine(base, settings.infer, lora, context.engines)
        return WorkerFacts(
            trainer=trainer,
            engine=engine,
            trainer_because=why_trainer,
            engine_because=why_engine,
            dtype=str(base.dtype).removeprefix("torch."),
            device=torch.cuda.get_device_name(base.device) if cuda else base.device.type,
            threads=torch.get_num_threads(),
            parameters=base.parameters,
            turns=turns,
            memory=device_plan.plan.describe() if turns is not None and device_plan.plan is not None else "",
        )

    def peak() -> int:
        return peak_memory(base.device) + context.trainers.peak_memory

    return Backend(solver, parts, facts, peak, lambda: broken(base.device))


def import_libraries(config: WorkerConfig | None = None) -> None:
    """Import what every worker needs, and what the one with this configuration needs besides."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
    import solver.infer.registry
    import solver.train.registry
    import solver.worker.device_plan  # noqa: F401
    from solver.model.folder import EMBEDDED
    from solver.model.load import needs_transformers

    if config is not None and needs_transformers(config.model or EMBEDDED, config.settings.model):
        from transformers import AutoModelForCausalLM  # noqa: F401


Load = Callable[[WorkerConfig, Callable[[Message], None]], Backend]


_ACTIVITIES = {  # what a worker does in each part of its start, in words
    "imports": "importing libraries",
    "model": "loading the model",
    "trainer": "making the trainer",
    "engine": "starting the engine",
}


@contextlib.contextmanager
def _timed(parts: dict[str, float], name: str, send: Callable[[Message], None]) -> Iterator[None]:
    send(Heartbeat(_ACTIVITIES[name], 0))
    began = time.monotonic()
    yield
    parts[name] = time.monotonic() - began


class Line:
    """The connection to the supervisor. Sending is safe from any thread; if the connection breaks, the process ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.item = ""
        self.activity = "starting"
        self.peak_memory: Callable[[], int] = lambda: 0

    def send(self, message: Message) -> None:
        """Send a message of the current item."""
        try:
            with self._lock:
                self._connection.send((self.item, message))
        except OSError:
            os._exit(0)

    def report(self, activity: str) -> None:
        """Note what the worker is doing; the next heartbeat reports it."""
        self.activity = activity

    def items(self) -> Iterator[WorkItem]:
        """Work items as they arrive, until the supervisor closes the connection."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                yield self._connection.recv()

    def config(self) -> WorkerConfig:
        """The first message."""
        config: WorkerConfig = self._connection.recv()
        return config

    def beat(self) -> None:
        """Send heartbeats for ever. If native code hangs with the interpreter's lock they stop, so the supervisor notices."""
        while True:
            self.send(Heartbeat(self.activity, self.peak_memory()))
            time.sleep(BEAT)


def serve(line: Line, load: Load = load, prepare: Callable[[], None] = lambda: None) -> None:
    """Load the model, then work until the connection closes. An error in an item is reported, and the next item taken.

    `prepare` is called before the configuration is here, because the supervisor may still read its input.
    """
    threading.Thread(target=line.beat, daemon=True).start()
    logging.getLogger("solver").addHandler(WarningHandler(lambda text: line.send(_warned(text))))
    began = time.monotonic()
    with contextlib.suppress(Exception):  # `load` meets the same error, and it is reported then
        line.activity = _ACTIVITIES["imports"]
        prepare()
    prepared = time.monotonic() - began
    config = line.config()
    if config.log is not None:
        write_output_to(config.log)

    def send(message: Message) -> None:
        if isinstance(message, Heartbeat):
            line.activity = message.activity
        line.send(message)

    try:
        backend = load(config, send)
        solver = backend.solver(0)
        facts = backend.facts()
    except InputError as error:
        line.send(StartFailed(str(error), bad_input=True))
        return
    except Exception as error:
        traceback.print_exc()
        line.send(StartFailed(describe_error(error)))
        return
    gc.freeze()  # the loaded objects stay for good; without this every full collection took a quarter of a second
    line.peak_memory = backend.peak_memory
    line.activity = ""
    line.send(Ready({**backend.parts, "imports": backend.parts["imports"] + prepared}, facts))
    for item in line.items():
        line.item = item.id
        try:
            solver = solver if not item.halvings else backend.solver(item.halvings)
            for message in solver.work(smaller_item(item), line.report):
                if isinstance(message, TaskOutcome) and message.status == "failed" and (why := backend.broken()):
                    raise ProcessBroken(why)  # the device has failed, not the task
                line.send(message)
            ending: Message = ItemDone()
        except Exception as error:
            traceback.print_exc()
            if why := str(error) if isinstance(error, ProcessBroken) else backend.broken():
                line.send(Warned("worker gives up", why))
                return  # the supervisor sees the process end, and hands the item to a new one
            ending = ItemFailed(describe_error(error))
        if item.halvings:
            solver = backend.solver(0)
        line.activity = ""
        line.send(Heartbeat("", backend.peak_memory()))
        line.send(ending)
        line.item = ""


def main(load: Load = load, prepare: Callable[[], None] = lambda: None) -> None:
    """Entry point."""
    serve(Line(line_to_parent()), load, prepare)


def _warned(text: str) -> Warned:
    """The message for a warning that a trainer or an engine logs, in the form "kind: detail"."""
    kind, colon, detail = text.partition(": ")
    return Warned(kind, detail) if colon else Warned("warning", kind)


if __name__ == "__main__":
    main(prepare=import_libraries)
