"""A whole run in a process of its own, around a worker that may misbehave: `run_process.py FAULTS SPEC`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from solver.budget.program_share import ProgramTime
from solver.config import load_settings
from solver.errors import InputError
from solver.messages import WorkerConfig
from solver.run import program_search
from solver.run.executors.base import Executor
from solver.run.executors.local import LocalExecutor
from solver.run.pipeline import run
from solver.run.program_search import ProgramResources
from solver.run.ray_processes import ray_executor
from solver.run.types import RunOptions
from solver.types import ProgramConfig

HERE = Path(__file__).parent


class Printer:
    def __init__(self, hang: str) -> None:
        self.hang = hang  # never returns from what begins so, a note or the summary, as from writing to a pipe that nobody reads

    def progress(self, progress: object) -> None:
        pass

    def note(self, line: str) -> None:
        print(line, flush=True)
        self.hang_at(line)

    def end(self, summary: object) -> None:
        self.hang_at("the summary")

    def hang_at(self, what: str) -> None:
        while self.hang and what.startswith(self.hang):
            time.sleep(1)


def main() -> int:
    faults, spec = sys.argv[1], json.loads(sys.argv[2])
    options = RunOptions(
        challenges=spec["challenges"],
        out=Path(spec["out"]),
        budget=spec.get("budget", 30.0),
        settings=load_settings(overrides=spec.get("set", [])),
        model=Path(spec["model"]),
        recipe=spec.get("recipe"),
        scratch=Path(spec["scratch"]) if "scratch" in spec else None,
        keep_adapters=spec.get("keep_adapters", False),
        solutions=Path(spec["solutions"]) if "solutions" in spec else None,
    )

    def executor(options: RunOptions, scratch: Path) -> Executor:
        config = WorkerConfig(options.settings, options.model, scratch)
        command = [sys.executable, str(HERE / "faulty_worker.py"), faults]
        if options.settings.workers.executor == "ray":
            return ray_executor(options, scratch, lambda: options.keep_adapters, command)
        return LocalExecutor(config, options.out / "worker.log", command=command)

    def programs(options: RunOptions) -> ProgramResources | None:
        """One process around a search that may misbehave, if the specification has faults for it."""
        if "programs" not in spec:
            return None
        config = ProgramConfig(4_000_000_000)
        command = [sys.executable, str(HERE / "faulty_programs.py"), json.dumps(spec["programs"])]
        processes = LocalExecutor(config, options.out / "programs.log", command=command)
        return ProgramResources(processes, ProgramTime(options.settings.programs.seconds, 1, beside=True))

    program_search.GRACE = spec.get("program_grace", program_search.GRACE)
    try:
        summary = run(options, Printer(spec.get("hang", "")), executor, programs)
    except InputError as error:
        print(f"solver: {error}", file=sys.stderr)
        return 2
    if "torch" in sys.modules:
        print("torch was imported", file=sys.stderr)
        return 99
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
