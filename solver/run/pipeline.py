"""One run from options to exit code: validate, fallback answers on disk, solve until the deadline, check, summarise."""

from __future__ import annotations

from solver.run.types import Observer, RunOptions, SilentObserver, Summary

__all__ = ["Observer", "RunOptions", "SilentObserver", "Summary", "run"]


def run(options: RunOptions, observer: Observer) -> Summary:
    """Run to the end of the budget and leave submission.json, run.db, summary.json and log.txt in `options.out`.

    Raises InputError (exit code 2) before any model is loaded if the options cannot be used; every other ending,
    a signal included, returns a Summary whose `exit_code` the process should exit with.
    """
    raise NotImplementedError
