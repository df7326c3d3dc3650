"""Rehearsals: the real supervisor never late and never invalid under any mix, the same twice, and a broken one found out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import make_tasks, outcome
from typer.testing import CliRunner

from solver.arc.submission import Submission
from solver.budget.prior import stored
from solver.budget.rehearsal import MIXES, DeviceSpeed, Noise, summarise
from solver.cli import app
from solver.commands.rehearse import RehearseOptions, SharedScene, noise_of, one_run, rehearsal_tasks, rehearse, scene_of
from solver.commands.simulated_executor import SimulatedExecutor
from solver.config import load_settings
from solver.errors import InputError
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity
from solver.run.supervisor import Supervisor

MACHINES = ("cpu", "kaggle-t4x2", "kaggle-l4x4", "h200")


def options(machine: str = "kaggle-l4x4", *overrides: str, **more: Any) -> RehearseOptions:
    settings = load_settings(machine, None, ["budget.policy=uniform", *overrides])
    return RehearseOptions(machine, settings, **{"tasks": 8, "budget": 1800.0, "runs": 8, "processes": 1, **more})


def scene(*overrides: str, **more: Any) -> SharedScene:
    return scene_of(options(*(("kaggle-l4x4", *overrides)), **more))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", ["fixed", "uniform", "adaptive"])
def test_never_late_never_invalid(machine: str, policy: str) -> None:
    found = rehearse(options(machine, f"budget.policy={policy}", runs=len(MIXES)))
    assert found["deadline_misses"] == found["invalid_submissions"] == 0
    assert set(found["mixes"]) == set(MIXES)
    assert found["publishes"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "runs"), [(60.0, 40), (300.0, 24), (3600.0, 12), (12 * 3600.0, 4)])
@pytest.mark.parametrize("machine", MACHINES)
def test_no_miss_in_many(machine: str, budget: float, runs: int) -> None:
    """A few; `tests/benchmarks/bench_rehearsal.py` does thousands."""
    found = rehearse(options(machine, tasks=30, budget=budget, runs=runs, seed=3))
    assert found["deadline_misses"] == found["invalid_submissions"] == 0


@pytest.mark.parametrize("mix", ["harsh", "hostile"])
def test_a_slow_disk_does_not_make_a_short_run_late(mix: str) -> None:
    """Sixty seconds leave a reserve of two, and every write takes up to one and a half."""
    found = rehearse(options("cpu", runs=16, budget=60.0, mix=mix))
    assert found["deadline_misses"] == found["invalid_submissions"] == 0


def test_time_is_used_where_work_is_left() -> None:
    found = rehearse(options(tasks=60, budget=6 * 3600.0, runs=4))
    assert found["runs_with_work_left"] == 4
    assert found["utilisation"] >= 0.97


def test_a_worker_that_starts_at_last_is_used_all_the_same() -> None:
    """In this run one of two starts at the fourth try, while the other has not yet started."""
    run = one_run(scene_of(options("kaggle-t4x2", "budget.policy=fixed", tasks=60, budget=300.0)), 3)
    assert run.events["failed start"] == 3
    assert run.worked > 0.95 * run.usable


@pytest.mark.parametrize("policy", ["fixed", "uniform", "adaptive"])
def test_the_time_of_short_runs_is_used(policy: str) -> None:
    found = rehearse(options("kaggle-l4x4", f"budget.policy={policy}", tasks=60, budget=300.0, runs=8, mix="none"))
    assert found["utilisation"] > 0.96
    assert found["utilisation_least"] > 0.95


def test_the_same_seed_gives_the_same_runs() -> None:
    here = scene()
    assert [one_run(here, number) for number in range(4)] == [one_run(here, number) for number in range(4)]
    assert one_run(here, 1) != one_run(replace(here, seed=1), 1)


def test_processes_change_nothing() -> None:
    alone = rehearse(options(runs=9, tasks=6, budget=900.0))
    assert rehearse(options(runs=9, tasks=6, budget=900.0, processes=2)) == alone


def test_every_kind_of_fault_happens_and_is_seen() -> None:
    here = scene(mix="hostile", budget=6 * 3600.0)
    events: dict[str, int] = {}
    for number in range(6):
        for kind, count in one_run(here, number).events.items():
            events[kind] = events.get(kind, 0) + count
    assert {"crash", "stuck", "silent", "oom fit", "oom decode", "failed", "nan", "late"} <= set(events)  # what was done
    assert {"failed start", "hung start", "slow start", "unkillable"} <= set(events)
    assert {"worker lost", "retry", "skipped", "out of memory", "fit stopped", "disk"} <= set(events)  # what the ledger says


# -- broken supervisors


class DeafToTheEnd(Supervisor):
    """Keeps half a second for the end."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        settings = arguments[0].model_copy(
            update={"budget": arguments[0].budget.model_copy(update={"reserve": 0.5, "grace": 0.0})}
        )
        super().__init__(settings, *arguments[1:], **named)


class Trusting(Supervisor):
    """Waits for workers that are late, at the end as well."""

    def _ending(self) -> Any:
        if any(worker.item is not None and not worker.dying for worker in self._workers):
            return None
        return super()._ending()

    def _patience(self) -> float:
        return max(super()._patience(), 1.0)  # the simulated clock stands still while nobody waits


class NeverKills(SimulatedExecutor):
    """A kill that is never sent."""

    def kill(self, worker: int, reason: str) -> None:
        pass


class WaitsForTheDead(SimulatedExecutor):
    """Ends only when every killed process has vanished."""

    def close(self) -> None:
        super().close()
        self._clock.now = max(self._clock.now, self.gone_at)


class Forgets(Supervisor):
    """Publishes without the tasks that are being worked on."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        publish = arguments[7]
        run_state = arguments[2]

        def broken(submission: Submission) -> None:
            publish({id_: answers for id_, answers in submission.items() if not run_state.state(id_).busy})

        super().__init__(*arguments[:7], broken, *arguments[8:], **named)


def test_too_small_a_reserve_is_found_out() -> None:
    assert sum(one_run(scene(mix="harsh"), number, supervisor=DeafToTheEnd).missed for number in range(6)) > 0


def test_a_supervisor_that_waits_for_late_work_is_found_out() -> None:
    here = scene("budget.grace=120", mix="hostile")
    assert not any(one_run(here, number).missed for number in range(6))
    assert sum(one_run(here, number, supervisor=Trusting).missed for number in range(6)) > 0


def test_a_kill_that_is_never_sent_is_found_out() -> None:
    """The run still ends in time, because its end does not wait for workers; what is lost is the time of the one that hangs."""
    here = scene(mix="hostile", budget=4 * 3600.0)
    broken = [one_run(here, number, NeverKills) for number in range(4)]
    sound = [one_run(here, number) for number in range(4)]
    assert not any(run.missed for run in broken)
    assert sum(run.down for run in broken) > 1.5 * sum(run.down for run in sound)


def test_an_end_that_waits_for_killed_workers_is_found_out() -> None:
    here = scene("budget.reserve=8", mix="hostile")
    assert sum(one_run(here, number, WaitsForTheDead).missed for number in range(8)) > 0


def test_an_incomplete_submission_is_found_out() -> None:
    record = one_run(scene(), 0, supervisor=Forgets)
    assert record.invalid > 0
    assert summarise([record])["first_bad_seed"] == 0


# -- inputs


def test_tasks_are_spread_over_sizes_and_repeat_under_other_ids() -> None:
    few = rehearsal_tasks(20)
    sizes = [task.grid_tokens() for task in few]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 5 * sizes[0]
    many = rehearsal_tasks(700)
    assert len({task.id for task in many}) == len(many) == 700


def test_noise_of_ledgers(tmp_path: Path) -> None:
    tasks = make_tasks(40)
    dice = np.random.default_rng(0)
    (tmp_path / "run").mkdir()
    ledger = Ledger.open(tmp_path / "run" / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    for place, task in enumerate(tasks):
        one = outcome(task.id)
        assert one.fit is not None
        tokens = 1000 * (place + 1)
        fit = replace(one.fit, tokens=tokens, seconds=1e-3 * tokens * float(np.exp(0.4 * dice.standard_normal())))
        ledger.record(replace(one, fit=fit))
    ledger.close()
    assert 0.25 < noise_of([tmp_path / "run"]).sigma < 0.6
    found = rehearse(options(runs=1, ledgers=(tmp_path / "run",)))
    assert found["noise"]["fitted"]
    with pytest.raises(InputError, match="no such ledger"):
        noise_of([tmp_path])


def test_too_few_fits_are_refused(tmp_path: Path) -> None:
    tasks = make_tasks(2)
    ledger = Ledger.open(tmp_path / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    ledger.record(outcome("task000"))
    ledger.close()
    with pytest.raises(InputError, match="too few"):
        noise_of([tmp_path])


@pytest.mark.parametrize(("change", "said"), [({"mix": "odd"}, "odd"), ({"runs": 0}, "at least one"), ({"machine": "x"}, "x")])
def test_bad_options_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        rehearse(replace(options(), **change))


def test_a_rehearsal_needs_a_network() -> None:
    with pytest.raises(InputError, match="runs with a network"):
        rehearse(options("cpu", "train.trainer=none"))


def test_program_search_is_rehearsed_with_its_faults() -> None:
    """In hostile runs processes of program search crash and hang, and the runs are in time and valid all the same."""
    both, alone = (scene(f"programs.enabled={on}", mix="hostile", tasks=30, budget=900.0) for on in ("true", "false"))
    runs, others = [one_run(both, number) for number in range(6)], [one_run(alone, number) for number in range(6)]
    assert not any(run.missed or run.invalid for run in runs)
    assert sum(run.events.get("program search failed", 0) for run in runs) > 0
    assert not any(run.events.get("program search failed") for run in others)
    assert sum(run.publishes for run in runs) > sum(run.publishes for run in others)


def test_an_estimate_is_called_one() -> None:
    found = rehearse(options("h200", runs=1, tasks=4))
    assert not found["durations_measured"]
    assert "estimate" in found["durations"]


def test_the_command(tmp_path: Path) -> None:
    arguments = ["rehearse", "--machine", "kaggle-t4x2", "--tasks", "8", "--budget", "1h", "--runs", "4", "--processes", "1"]
    done = CliRunner().invoke(app, [*arguments, "--policy", "uniform", "--seed", "5", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {"deadline_misses", "invalid_submissions", "utilisation", "steps_per_task", "tasks_at_floor"} <= set(found)
    assert found["runs"] == 4
    assert found["seed"] == 5
    table = CliRunner().invoke(app, [*arguments, "--faults", "none"])
    assert table.exit_code == 0
    assert "ESTIMATE" in table.stdout
    assert CliRunner().invoke(app, [*arguments, "--faults", "odd"]).exit_code == 2


def test_the_pace_of_every_preset_is_usable() -> None:
    for machine in MACHINES:
        pace = DeviceSpeed.of(stored(machine))
        assert pace.step_seconds(4000) >= pace.step_seconds(400) > 0
        assert pace.infer_seconds(400, 100, 8, 1) > 0
    assert Noise().sigma > 0


def test_a_worker_that_hangs_and_beats_does_not_cost_a_run_without_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policy `fixed` gives an item all the time there is: only what it should take tells that it hangs."""
    monkeypatch.setitem(MIXES, "stuck", replace(MIXES["none"], stuck=0.05))
    found = rehearse(options("cpu", "budget.policy=fixed", "train.steps=10", mix="stuck", budget=4 * 3600.0, runs=12))
    assert found["events"]["stuck"] > 3
    assert found["tasks_untouched"] < 0.5  # a task that two workers hang on is set aside


def test_tasks_at_the_floor_have_at_most_a_quarter_of_the_steps() -> None:
    plenty = rehearse(options("cpu", "budget.policy=fixed", mix="none", budget=24 * 3600.0, runs=1))
    assert plenty["tasks_at_floor"] == 0
    few = rehearse(options("cpu", "budget.policy=fixed", "budget.fixed_waves=[15]", mix="none", budget=24 * 3600.0, runs=1))
    assert few["tasks_at_floor"] == 8
