"""`solver show`: shows tasks, with the candidates and attempts of a run, in the terminal or as an HTML page.

solver show 0c9aba6e task.json arc2:evaluation
solver show 0c9aba6e --run runs/eval
solver show --run runs/eval --html eval.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from solver.arc.datasets import NAMED_SETS, load_tasks
from solver.arc.task import Task
from solver.commands.shown_runs import ShownRun, read_shown_run, shown_tasks
from solver.errors import InputError
from solver.report.gallery import in_terminal
from solver.report.shown import ShownTask

CANDIDATES = 8  # shown of a test input in the terminal


def show(names: Sequence[str], run: Path | None, html: Path | None, console: Console, tell: Callable[[str], None]) -> None:
    """Print the named tasks, or write them to the page `html`. With a run and without names, all of its tasks.

    A name is a file, a folder, a named set, or the id of a task of the run or of a public set. Raises InputError for what cannot
    be found or read, and if `html` cannot be written.
    """
    if not names and run is None:
        raise InputError("nothing to show: give a task (a file, a named set or an id), or --run")
    known = None if run is None else read_shown_run(run)
    tasks = find_tasks(names, known, tell) if names else [] if known is None else list(known.past.tasks.values())
    of_run = {} if known is None else shown_tasks(known, {task.id for task in tasks} & known.past.tasks.keys())
    shown = [_shown(task, known, of_run) for task in tasks]
    if html is None:
        for one in shown:
            console.print(in_terminal(one, console.width, CANDIDATES))
        return
    from solver.report.html_page import write_page
    from solver.report.shown_html import tasks_page

    title = f"solver: {run.name or run}" if run is not None else "solver: tasks"
    write_page(html, tasks_page(title, _head(shown, known), shown), "--html")
    tell(f"{html}: {len(shown)} tasks")


def find_tasks(names: Sequence[str], run: ShownRun | None, tell: Callable[[str], None]) -> list[Task]:
    """The tasks that the names stand for, in their order. Raises InputError for a name that stands for none."""
    found: list[Task] = []
    for name in names:
        if name in NAMED_SETS or Path(name).exists():
            tasks = load_tasks(name)
            for note in tasks.notes:
                tell(note)
            found += tasks
        else:
            found.append(_by_id(name, run))
    return found


def _by_id(id_: str, run: ShownRun | None) -> Task:
    if run is not None:
        if id_ in run.past.tasks:
            return run.past.tasks[id_]
        raise InputError(f"{id_}: is no file, no named set, and no task of {run.past.folder}")
    for name in NAMED_SETS:
        if (task := load_tasks(name).by_id.get(id_)) is not None:
            return task
    raise InputError(f"{id_}: is no file, no named set, and no task of {', '.join(NAMED_SETS)}")


def _shown(task: Task, run: ShownRun | None, of_run: Mapping[str, ShownTask]) -> ShownTask:
    """What the run made of a task; the task alone if the run has none of this id or another one."""
    if run is None or task.id not in of_run or run.past.tasks[task.id] != task.without_answers():
        return ShownTask(task)
    return of_run[task.id]


def _head(shown: Sequence[ShownTask], run: ShownRun | None) -> list[str]:
    if run is None:
        return [f"{len(shown)} tasks"]
    solved = [one for task in shown for one in task.solved() if one is not None]
    known = f"; {sum(solved)} of {len(solved)} test inputs solved" if solved else "; no answers are known"
    return [f"{run.past.folder}: {len(shown)} tasks, selected by {run.past.rule}{known}"]
