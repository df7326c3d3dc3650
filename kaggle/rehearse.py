"""Runs the real notebook as Kaggle does: its folders under another root, no network, any Python as kernel.

    python kaggle/rehearse.py --bundles dist/kaggle [--python PATH] [--tasks N] [--seconds 300]

`make kaggle-rehearsal` runs it on the 400 ARC-AGI-1 evaluation tasks, in an environment of the packages of Kaggle's image alone.
It prints what the notebook prints, what is left in the output folder, and the score. The exit code is 0 if the notebook ended
successfully with a complete valid submission that solves something, and left nothing but it and logs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).parents[1]))  # where a script's own folder stands

from offline_wheels.network import without_network

NOTEBOOK = Path(__file__).with_name("submission.ipynb")
COMPETITION, SOLVER, WHEELS = "arc-prize-2026-arc-agi-2", "arc-solver", "arc-solver-wheels"  # as the notebook names them
MARGIN = 60  # seconds beyond its time after which a notebook counts as hanging
NOT_INHERITED = ("KAGGLE_IS_COMPETITION_RERUN", "PYTHONPATH")  # variables that a rehearsal does not take over


@dataclass(frozen=True)
class Rehearsal:
    """What a notebook did: all it printed, the error that ended it (empty: none), its seconds, and its output folder."""

    text: str
    error: str
    seconds: float
    working: Path

    @property
    def submission(self) -> Any:
        """The submission it left. Raises OSError or ValueError if there is none."""
        return json.loads((self.working / "submission.json").read_text())

    @property
    def left(self) -> list[str]:
        """What is in the output folder, sorted."""
        return sorted(path.name for path in self.working.iterdir())


@dataclass
class Place:
    """The folders of a Kaggle machine below `root`. `by_kind`: the folders of inputs say their kind and owner, as in 2026."""

    root: Path
    by_kind: bool = True
    setup: Sequence[str] = field(default=())  # shell commands before the kernel starts, in a mount namespace of its own

    @property
    def working(self) -> Path:
        """The output folder."""
        return self.root / "kaggle/working"

    def folder(self, kind: str, slug: str) -> Path:
        """The folder of an input: kind is competitions, datasets or models."""
        owner = {"competitions": "", "datasets": "somebody", "models": "somebody"}[kind]
        path = self.root / "kaggle/input" / (Path(kind) / owner / slug if self.by_kind else slug)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def prepare(self) -> None:
        """Make the folders that every Kaggle machine has."""
        for name in ("kaggle/input", "kaggle/working", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)


class _Kernel(KernelSpecManager):
    """Finds one kernel, whatever its name is."""

    def __init__(self, argv: Sequence[str]) -> None:
        super().__init__()
        self._argv = list(argv)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Its specification."""
        return KernelSpec(argv=self._argv, display_name=kernel_name, language="python")


class _Client(NotebookClient):
    """Runs a notebook and prints at once what it prints."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        """One message of the kernel."""
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


def rehearse(
    place: Place,
    parameters: Mapping[str, Any],
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Rehearsal:
    """Run the notebook at a place. `parameters` replace those of its first cell; `seconds` are what they allow it in all.

    `environment` is added to that of this process.
    """
    place.prepare()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = next(number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(source))
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    kernel = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    if place.setup:
        kernel = ["sh", "-c", " && ".join([*place.setup, 'exec "$0" "$@"']), *kernel]
    began, error = time.monotonic(), ""
    with tempfile.TemporaryDirectory() as sockets:  # pipes in place of ports: no network is needed
        spec = _Kernel([*without_network(bool(place.setup)), *kernel])
        manager = AsyncKernelManager(kernel_spec_manager=spec, transport="ipc", connection_file=f"{sockets}/kernel.json")
        client = _Client(notebook, km=manager, timeout=seconds + MARGIN, startup_timeout=120)
        try:
            client.execute(
                env={**inherited, "SOLVER_KAGGLE_ROOT": str(place.root), **(environment or {})}, cwd=str(place.working)
            )
        except CellExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
    printed = [output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return Rehearsal("".join(printed), error, time.monotonic() - began, place.working)


def lay_out(place: Place, challenges: Mapping[str, Any], solutions: Mapping[str, Any], attached: Mapping[str, Path]) -> None:
    """Write the files of the competition, and copy the folders in `attached` to the data sets of these slugs."""
    place.prepare()
    folder = place.folder("competitions", COMPETITION)
    (folder / "arc-agi_test_challenges.json").write_text(json.dumps(challenges))
    if solutions:
        (folder / "arc-agi_evaluation_solutions.json").write_text(json.dumps(solutions))
    for slug, source in attached.items():
        shutil.copytree(source, place.folder("datasets", slug), dirs_exist_ok=True, copy_function=os.link)


def main() -> int:
    """The command. Gives its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=Path, required=True, help="the folder with the data sets that bundle.py made")
    parser.add_argument("--python", default=sys.executable, help="the Python of the kernel")
    parser.add_argument("--tasks", type=int, default=400, help="the first so many ARC-AGI-1 evaluation tasks")
    parser.add_argument("--seconds", type=float, default=300, help="the time of the notebook")
    parser.add_argument("--root", type=Path, default=Path(".scratch/kaggle-rehearsal"), help="the folder in place of /; emptied")
    options = parser.parse_args()

    from solver.arc.datasets import load_solutions, load_tasks, pick_tasks
    from solver.arc.submission import defects, load_submission, score

    tasks = pick_tasks(load_tasks("arc1:evaluation"), str(options.tasks))
    shutil.rmtree(options.root, ignore_errors=True)
    place = Place(options.root.absolute())
    folders = {SOLVER: options.bundles / "solver", WHEELS: options.bundles / "wheels"}
    attached = {slug: folder for slug, folder in folders.items() if folder.is_dir()}
    lay_out(place, {task.id: task.without_answers().to_json() for task in tasks}, {}, attached)
    print(f"network cut off: {'yes' if without_network() else 'no, it is not permitted here'}; kernel: {options.python}")
    python = str(Path(options.python).absolute())  # not its target: that would be the Python without the environment
    done = rehearse(place, {"FIRST_RUN": options.seconds}, python, seconds=options.seconds)
    print(f"the notebook took {done.seconds:.0f} s of {options.seconds:.0f}; left in the output folder: {', '.join(done.left)}")
    flaws = [done.error] if done.error else defects(place.working / "submission.json", tasks)
    if unwanted := set(done.left) - {"submission.json", "logs"}:
        flaws.append(f"the output folder holds {', '.join(sorted(unwanted))}")
    if done.seconds > options.seconds + 30:
        flaws.append("it ended late")
    if not flaws:
        answers = {id_: grids for id_, grids in load_solutions("arc1:evaluation").items() if id_ in tasks.ids}
        scores = score(load_submission(place.working / "submission.json"), answers)
        for name, value in scores.items():
            print(f"{name}: {value['solved']:g} of {value['total']:g}, {value['accuracy']:.1%}")
        if not scores["per_prediction"]["solved"]:
            flaws.append("it solves nothing")
    print("\n".join(flaws) if flaws else "rehearsal passed")
    return 1 if flaws else 0


if __name__ == "__main__":
    sys.exit(main())
