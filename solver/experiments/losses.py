"""The loss of the true answers under the adapters of finished runs. It is measured after all runs: a run never sees an answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable

import numpy as np

from solver.arc.task import Task
from solver.budget.planner import full_plan
from solver.codec import TooLong
from solver.config import Settings
from solver.errors import InputError
from solver.experiments.harvest import adapters_of
from solver.experiments.planned import PlannedRun
from solver.experiments.rows import LossRow, ResultFile
from solver.experiments.tasks import content_digest
from solver.host import commit, hardware
from solver.infer.base import Engine
from solver.infer.registry import make_engine
from solver.model.load import Base, load_base
from solver.report.scores import hardware_text
from solver.types import NEVER, AdapterRef, ScoreRequest
from solver.worker.solve import inference_views

Report = Callable[[str], None]
REPORT_EVERY = 10  # tasks


def measure_losses(runs: Iterable[PlannedRun], rows: ResultFile, report: Report) -> None:
    """Write the losses that the file lacks, for the runs that ask for them, and delete adapters that are of no more use.

    A task whose adapter is gone has none. Raises InputError if a model cannot be loaded.
    """
    import torch

    loaded: tuple[object, Base, Engine] | None = None
    for run in runs:
        if not run.losses:
            continue
        key = run.key
        due = [task for task in run.tasks if rows.loss(key, content_digest([task])) is None]
        adapters = {id_: ref for folder in run.folders() for id_, ref in adapters_of(folder, run.settings).items()}
        due = [task for task in due if task.id in adapters and _is_there(adapters[task.id], run.settings)]
        wanted = (run.subject.folder, run.settings.model, run.settings.infer)
        if due and (loaded is None or loaded[0] != wanted):
            base = load_base(run.subject.folder, run.settings.model)
            loaded = wanted, base, make_engine(base, run.settings.infer, run.settings.train.rank)
        for number, task in enumerate(due, 1):
            assert loaded is not None
            _, base, engine = loaded
            nats, tokens = answer_losses(base, engine, task, run.settings, adapters[task.id])
            machine = hardware_text({**hardware({}), "threads": torch.get_num_threads(), "device": base.device.type})
            rows.add_loss(LossRow(key, content_digest([task]), task.id, nats, tokens, machine, commit()))
            if number % REPORT_EVERY == 0 or number == len(due):
                report(f"{run.name}: losses of {number} of {len(due)} tasks")
        if not run.lacking(rows):
            shutil.rmtree(run.adapters, ignore_errors=True)


def answer_losses(
    base: Base, engine: Engine, task: Task, settings: Settings, adapter: AdapterRef | None
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """By test input: nats of the true answer, the mean over the views of the settings, and its tokens.

    Views whose prompt does not fit the context are left out; if none fits, the loss is not a number. Raises InputError if the
    engine fails.
    """
    nats, tokens = [], []
    for index, pair in enumerate(task.test):
        assert pair.output is not None
        requests: list[ScoreRequest] = []
        for view in inference_views(settings, task, 0)[: full_plan(settings).views]:
            try:
                prompt = base.codec.prompt(view.apply(task.without_answers()), index, base.context).ids
            except TooLong:
                continue
            answer = base.codec.encode_answer(view.apply_grid(pair.output))
            requests.append(ScoreRequest(str(len(requests)), prompt, adapter, (answer,)))
        results = list(engine.score(requests, NEVER))
        if failed := next((result for result in results if result.status != "complete"), None):
            raise InputError(f"task {task.id}: its answer could not be scored: {failed.error or failed.status}")
        found = [-result.completions[0].logprob for result in results]
        nats.append(float(np.mean(found)) if found else float("nan"))
        tokens.append(len(base.codec.encode_answer(pair.output)))
    return tuple(nats), tuple(tokens)


def _is_there(adapter: AdapterRef | None, settings: Settings) -> bool:
    """Whether the adapter that answered can be loaded; the base model can be if no adapter was to be fitted."""
    if adapter is None:
        return full_plan(settings).steps == 0 or tuple(settings.budget.fixed_waves) == (0,)
    return adapter.path.is_dir()
