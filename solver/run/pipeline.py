"""One run from options to exit code: check the input, write fallback answers, solve until the deadline, check, summarise."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

from solver.arc.datasets import Answers, TaskSet, load_tasks, load_usable_solutions, pick_tasks, sample_tasks, shortest_tasks
from solver.arc.jsonfile import write_json
from solver.arc.submission import SubmissionFile, defects
from solver.budget.gains import shipped_gains
from solver.budget.registry import make_policy
from solver.budget.reserve import reserve_seconds
from solver.config import MAX_DURATION
from solver.errors import InputError
from solver.host import commit, cores
from solver.model.adapter_folder import check_start
from solver.model.folder import SHIPPED, check_folder, folder_identity
from solver.model.shipped import shipped_model
from solver.model.support import settings_for
from solver.report.observer import Observer
from solver.report.results import Summary
from solver.run.clock import WallClock, end_of_budget, process_start
from solver.run.executors.base import Executor
from solver.run.executors.local import EarlyWorkers
from solver.run.executors.none import NoWorkers
from solver.run.executors.ray import RayExecutor
from solver.run.identity import identity_of
from solver.run.initial_costs import initial_costs, remember
from solver.run.ledger import ENDED, LEDGER, RESUMED, TOTAL, Event, Ledger, LedgerError
from solver.run.ledger_file import DamagedLedger
from solver.run.local_processes import local_executor, local_placement, local_programs, program_processes_beside
from solver.run.placement import Placement, gpus_in_use, visible_gpus
from solver.run.program_search import ProgramResources
from solver.run.ray_processes import ray_executor
from solver.run.run_facts import Identity, RunFacts
from solver.run.state import RunState
from solver.run.summary import Ended, summarise
from solver.run.supervisor import Supervisor
from solver.run.types import EXIT_DONE, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED, Ending, RunOptions
from solver.run.watchdog import Watchdog
from solver.types import Deadline

# What is run without challenges: a fixed sample of tasks short enough for two CPU cores and a few minutes.
DEFAULT_SET, DEFAULT_SHORTEST, DEFAULT_COUNT = "arc1:evaluation", 60, 12
SUBMISSION, SUMMARY, LOG, LOCK = "submission.json", "summary.json", "log.txt", ".lock"

STOP_SECONDS = 4.5  # from a signal to the end of a process that does not stop by itself
MIN_SECONDS = 2.0  # for the fallback answers and the message, even if the budget is used up at the start

ExecutorFactory = Callable[[RunOptions, Path], Executor]  # of the options and the scratch folder
ProgramFactory = Callable[[RunOptions], ProgramResources | None]


def run(
    options: RunOptions,
    observer: Observer,
    make_executor: ExecutorFactory | None = None,
    make_programs: ProgramFactory | None = None,
) -> Summary:
    """Run to the end of the budget and leave submission.json, run.db, summary.json and log.txt in `options.out`.

    Raises InputError (exit code 2) if the options cannot be used. If the budget or the model proves unusable only later, the
    fallback submission has been written by then. Every other end, a signal included, returns a Summary with the `exit_code` for
    the process. `make_executor` replaces the workers that the settings ask for, `make_programs` the processes that search for
    programs.

    If this process hangs (a pipe that nobody reads, a dead disk), a watchdog ends it just before the end of the budget. With
    `options.started` there is no watchdog, because the process belongs to the caller.
    """
    started = process_start() if options.started is None else options.started
    with _signals() as signals, contextlib.ExitStack() as stack:
        options = replace(options, model=options.model or _shipped(options))
        placement = _check_options(options)
        if make_executor is None and options.settings.workers.executor == "ray":
            make_executor = partial(ray_executor, keep=lambda: options.keep_adapters or bool(signals.received))
        elif make_executor is None:
            early = stack.enter_context(contextlib.closing(_early_workers(placement)))
            make_executor = partial(local_executor, early=early)
        programs_note = program_processes_beside(placement, options).note
        inputs = _read_inputs(options, (*placement.notes, *([programs_note] if programs_note else ())))
        options = replace(options, settings=settings_for(inputs.model, options.settings))
        end = Deadline(end_of_budget(options.budget, options.until, started))
        watchdog = _watchdog(options, signals, end)
        summary = None
        with watchdog if options.started is None else contextlib.nullcontext():
            try:
                makers = make_executor, make_programs or local_programs
                summary = _run(options, inputs, started, end, signals, watchdog, observer, *makers)
            finally:
                observer.end(summary)  # under the watchdog too: a terminal may block
        return summary


def _run(
    options: RunOptions,
    inputs: _Inputs,
    started: float,
    end: Deadline,
    signals: _Signals,
    watchdog: Watchdog,
    observer: Observer,
    make_executor: ExecutorFactory,
    make_programs: ProgramFactory,
) -> Summary:
    """The run from the opening of its output folder on."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_folder(options.out))
        log = _Log(options.out / LOG, observer)
        identity = identity_of(inputs.tasks, options.settings, inputs.model, options.recipe, options.adapter)
        ledger, run_state = _open_ledger(options.out, identity, inputs.tasks, options.settings.select.rule, log)
        stack.enter_context(contextlib.closing(ledger))
        submission_file = SubmissionFile(options.out / SUBMISSION)
        try:
            submission_file.write(run_state.submission)
        except OSError as error:
            raise InputError(f"{options.out / SUBMISSION}: cannot be written: {error.strerror or error}") from None
        watchdog.before_exit(lambda: log.write("end: the process hung, and the watchdog ended it"))
        log.note(f"{len(inputs.tasks)} tasks; a valid submission is in {options.out / SUBMISSION}")
        for id_, bad in inputs.tasks.bad.items():
            log.note(f"{id_} gets a fallback answer: {bad.message}")
        start = _note_start(options, ledger, end, time.monotonic() - started, log)
        costs = initial_costs(options, lambda line: _warn(line, ledger, log))
        remember(costs, ledger)
        scratch = stack.enter_context(_scratch(options, ledger, signals, log))
        source = commit()  # asked now, because git may take seconds that the end does not have
        if options.adapter is not None:
            log.note(f"every fit starts from the adapter in {options.adapter}")
        for kind, note in (*(("input", note) for note in inputs.warnings), *(("workers", note) for note in inputs.notes)):
            log.note(note)
            with contextlib.suppress(LedgerError):
                ledger.event(Event(kind, note))
        executor = make_executor(options, scratch) if options.settings.network else NoWorkers()
        watchdog.before_exit(executor.close)
        programs = make_programs(options)
        if programs is not None:
            watchdog.before_exit(partial(programs.executor.close, 0.0))
        supervisor = Supervisor(
            options.settings,
            list(inputs.tasks),
            run_state,
            ledger,
            executor,
            make_policy(options.settings, costs, shipped_gains(by_path=inputs.model not in SHIPPED.values())),
            end,
            submission_file.write,
            log,
            programs=programs,
            disk=executor if isinstance(executor, RayExecutor) else None,
            start=start,
            interrupted=signals.reason,
            clock_set=WallClock(),
            keep_adapters=options.keep_adapters,
        )
        ending = supervisor.run()
        ended = _verdict(ending, signals, supervisor, run_state, options, started, end)
        _final_check(options.out / SUBMISSION, inputs.tasks, log)
        with contextlib.suppress(LedgerError):
            ledger.timing(TOTAL, ended.budget, ended.seconds, start)
            ledger.event(Event(ENDED, ended.reason))
        summary = summarise(options, ended, run_state, ledger, supervisor, str(inputs.model), inputs.answers, source)
        try:
            write_json(options.out / SUMMARY, summary.to_json())
        except (OSError, ValueError) as error:
            log.note(f"{options.out / SUMMARY}: cannot be written: {error}")
        log.note(f"end: {ended.reason}")
        if ended.exit_code == EXIT_INPUT:
            raise InputError(ended.reason)
        return summary


@dataclass(frozen=True)
class _Inputs:
    """The user's input, read and checked as far as the run needs it."""

    tasks: TaskSet
    answers: Answers  # of the tasks whose solutions are known
    model: Path
    notes: tuple[str, ...]  # about the workers
    warnings: tuple[str, ...] = ()  # about flaws in input that the run can do without


def _check_options(options: RunOptions) -> Placement:
    """Check everything but the tasks. Gives the workers of the run. Raises InputError, also for more devices than there are."""
    assert options.model is not None
    check_folder(options.model)
    if options.adapter is not None:
        check_start(options.adapter, options.settings.train)
    if options.budget is None and options.until is None:
        raise InputError("a run needs a budget or an end")
    if options.until is not None and not options.until - time.time() < MAX_DURATION:
        raise InputError(f"--until {options.until}: not a time in seconds since 1970 that is less than a year away")
    settings_for(options.model, options.settings)
    return local_placement(options)


def _early_workers(placement: Placement) -> EarlyWorkers:
    """Processes for the workers, which import while this one reads tasks. On a single core that would only delay the reading."""
    return EarlyWorkers(placement.environments if cores() > 1 else ())


def _read_inputs(options: RunOptions, notes: tuple[str, ...]) -> _Inputs:
    every = load_tasks(DEFAULT_SET if options.challenges is None else options.challenges, options.settings.input.on_bad_task)
    answers, complaint = every.answers(), ""
    if options.solutions is not None:  # only for scores, so flaws in them are warnings
        answers, complaint = load_usable_solutions(options.solutions, every)
    warnings = (*every.notes, *([f"--solutions {complaint}"] if complaint else ()))
    tasks = every if options.challenges is not None else sample_tasks(shortest_tasks(every, DEFAULT_SHORTEST), DEFAULT_COUNT)
    if options.tasks is not None:
        tasks = pick_tasks(tasks, options.tasks)
    assert options.model is not None
    return _Inputs(tasks, {id_: answers[id_] for id_ in tasks.ids if id_ in answers}, options.model, notes, warnings)


def _shipped(options: RunOptions) -> Path:
    """The shipped model for a run that names none: the one its ledger names if it is resumed, else by the device."""
    with (
        contextlib.suppress(InputError, FileNotFoundError, ValueError, KeyError),
        contextlib.closing(Ledger.read(options.out / LEDGER)) as ledger,
    ):
        begun = ledger.identity().model
        for folder in SHIPPED.values():
            if folder_identity(folder) == begun:
                return folder
    if options.settings.workers.executor == "ray":  # the cluster is not known yet
        return shipped_model(options.settings.model.device.startswith("cuda") or bool(visible_gpus()))
    return shipped_model(bool(gpus_in_use(options.settings, visible_gpus())))


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Create the output folder and lock it against other runs while inside. Raises InputError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {out}: another run is using it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def _open_ledger(out: Path, identity: Identity, tasks: TaskSet, rule: str, log: _Log) -> tuple[Ledger, RunState]:
    """Open the ledger of this run and read its state. A damaged ledger is renamed, and the run begins anew."""
    # a run creates its ledger first, so a submission without one comes from somewhere else
    if not (out / LEDGER).exists() and (out / SUBMISSION).exists():
        raise InputError(f"--out {out}: holds a {SUBMISSION} without its {LEDGER}; choose another folder")
    try:
        if (out / SUBMISSION).exists() and (out / LEDGER).stat().st_size == 0:
            raise DamagedLedger(f"{out / LEDGER}: the ledger is empty")
        return _readable_ledger(out / LEDGER, identity, tasks, rule)
    except DamagedLedger as error:
        kept = _set_aside(out)
        log.note(f"{error}; it is kept as {kept}, with a copy of its submission beside it, and the run begins anew")
        ledger, run_state = _readable_ledger(out / LEDGER, identity, tasks, rule)
        with contextlib.suppress(LedgerError):  # the log has the line
            ledger.event(Event("damaged ledger", f"{error}; it is kept as {kept}"))
        return ledger, run_state


def _readable_ledger(path: Path, identity: Identity, tasks: TaskSet, rule: str) -> tuple[Ledger, RunState]:
    """Open a ledger and read its state. Raises DamagedLedger, also for a sound file whose rows make no sense."""
    ledger = Ledger.open(path, identity, tasks)
    try:
        ledger.check_rows()
        return ledger, RunState(tasks, rule, ledger.outcomes(), ledger.program_outcomes())
    except (ValueError, LookupError, TypeError, sqlite3.Error) as error:
        ledger.close()
        raise DamagedLedger(f"{path}: the ledger is damaged: {type(error).__name__}: {error}") from None


def _set_aside(out: Path) -> Path:
    """Rename a damaged ledger and copy its submission. Gives the ledger's new path."""
    number = next(n for n in range(1, 1000) if not (out / f"{LEDGER}.damaged{n}").exists())
    try:
        for suffix in ("", "-wal", "-shm"):  # SQLite looks for the others under the name of the first
            if (out / f"{LEDGER}{suffix}").exists():
                (out / f"{LEDGER}{suffix}").rename(out / f"{LEDGER}.damaged{number}{suffix}")
        if (out / SUBMISSION).exists():
            shutil.copyfile(out / SUBMISSION, out / f"{SUBMISSION}.damaged{number}")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
    return out / f"{LEDGER}.damaged{number}"


def _note_start(options: RunOptions, ledger: Ledger, end: Deadline, seconds: float, log: _Log) -> int:
    """Record the facts that may differ between the processes of a run. Gives the number of this process, from 1."""
    start = (ledger.facts().starts or 0) + 1
    try:
        ledger.set_facts(
            RunFacts(
                starts=start,
                budget=options.budget if options.until is None else end.remaining() + seconds,
                machine=options.machine or "",
                challenges=options.challenges or DEFAULT_SET,
                solutions="" if options.solutions is None else str(options.solutions.absolute()),
                all_settings=options.settings.model_dump(mode="json"),
            )
        )
        ledger.timing("validate", None, seconds, start)
        if start > 1:
            events = ledger.events()
            how = "came to its end" if events and events[-1].kind == ENDED else "was broken off"
            ledger.event(Event(RESUMED, f"process {start} of this run begins; the one before it {how}"))
    except LedgerError as error:  # the submission is written: from here on a full disk costs only records
        log.note(str(error))
    return start


def _warn(line: str, ledger: Ledger, log: _Log) -> None:
    log.note(line)
    with contextlib.suppress(LedgerError):
        ledger.event(Event("profile", line))


@contextlib.contextmanager
def _scratch(options: RunOptions, ledger: Ledger, signals: _Signals, log: _Log) -> Iterator[Path]:
    """Create a folder for the adapters of this run while inside. Every run has its own, as adapter names repeat between runs.

    The folder is removed at the end, unless the user wants to keep it or a signal ended the run. Then resuming finds it through
    the ledger.
    """
    facts = ledger.facts()
    id_ = facts.id or secrets.token_hex(8)
    parent = options.scratch or (Path(tempfile.gettempdir()) if facts.scratch is None else facts.scratch.parent)
    scratch = parent.absolute() / f"solver-{id_}"
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--scratch {parent}: cannot be written: {error.strerror}") from None
    with contextlib.suppress(LedgerError):
        ledger.set_facts(RunFacts(id=id_, scratch=scratch))
    try:
        yield scratch
    finally:
        if signals.received:
            with contextlib.suppress(OSError):
                scratch.rmdir()  # only if nothing is in it
            if scratch.is_dir():
                log.note(f"the adapters stay in {scratch}, for resuming the run")
        elif not options.keep_adapters:
            shutil.rmtree(scratch, ignore_errors=True)


def _watchdog(options: RunOptions, signals: _Signals, end: Deadline) -> Watchdog:
    reserve = reserve_seconds(options.settings.budget.reserve, end.remaining())
    before = min(0.5, reserve / 4)  # seconds before the end; a run that is on time ends earlier
    at = max(end.at - before, time.monotonic() + MIN_SECONDS)
    return Watchdog(at, EXIT_FAILED, lambda: signals.exit_code() if signals.received else None, STOP_SECONDS)


def _verdict(
    ending: Ending,
    signals: _Signals,
    supervisor: Supervisor,
    run_state: RunState,
    options: RunOptions,
    started: float,
    end: Deadline,
) -> Ended:
    code, reason = EXIT_DONE, ending.detail
    answered = bool(run_state.outcomes() or run_state.program_outcomes())
    if ending.stop == "interrupted":
        code = signals.exit_code()
    elif ending.stop == "no worker":
        code = EXIT_FAILED
        if not answered:
            reason = f"{reason}; {options.out / SUBMISSION} holds only fallback answers"
    elif ending.stop == "bad input":
        code = EXIT_INPUT
    elif ending.stop == "deadline" and supervisor.facts is None and not answered:
        code = EXIT_INPUT
        seconds = end.at - started
        reserve = reserve_seconds(options.settings.budget.reserve, seconds)
        if seconds > 0:
            what = f"the budget of {seconds:.0f} s is too short to start a model (its last {reserve:.0f} s are kept for the end)"
        else:
            what = "--until is a time in the past, so there is no time to start a model"
        reason = f"{what}; {options.out / SUBMISSION} holds only fallback answers"
    return Ended(code, reason, time.monotonic() - started, end.at - started)


def _final_check(path: Path, tasks: TaskSet, log: _Log) -> None:
    try:
        flaws = defects(path, tasks)
    except InputError as error:
        flaws = [str(error)]
    for flaw in flaws:
        log.note(f"{SUBMISSION} is not valid: {flaw}")


class _Log:
    """Passes notes on to the observer and appends them to the log file. Lines that cannot be written are lost."""

    def __init__(self, path: Path, observer: Observer) -> None:
        self._path = path
        self._observer = observer
        self.progress, self.end = observer.progress, observer.end

    def note(self, line: str) -> None:
        """One line, or an indented block."""
        with contextlib.suppress(OSError, ValueError):
            self._observer.note(line)
        self.write(line)

    def write(self, line: str) -> None:
        """Into the file only."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} " + line.replace("\n", "\n    ") + "\n")


@dataclass
class _Signals:
    """The first signal that asked us to stop."""

    received: list[int] = field(default_factory=list)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler. It only remembers the signal, so no work is interrupted half way."""
        del frame
        self.received.append(number)

    def reason(self) -> str | None:
        """Why the run has to stop; None if no signal has come."""
        return f"stopped by {signal.Signals(self.received[0]).name}" if self.received else None

    def exit_code(self) -> int:
        """By convention 128 plus the number of the signal."""
        return EXIT_INTERRUPTED if self.received[0] == signal.SIGINT else EXIT_TERMINATED


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """Collect SIGTERM and SIGINT while inside, instead of ending. In a thread Python allows no handlers: nothing changes."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
