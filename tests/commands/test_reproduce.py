"""`solver reproduce`: bad options are refused at once, and small real experiments end with tables, pictures and losses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_helpers import make_tasks, write_challenges
from typer.testing import CliRunner

from solver.cli import app
from solver.commands import reproduce as command
from solver.commands import reproduce_data as reproduce_data_module
from solver.commands.reproduce import ReproduceOptions, chosen_tasks, reproduce
from solver.commands.reproduce_data import DataOptions, reproduce_data
from solver.errors import InputError
from solver.experiments.pretrainings import DataArm, Training, data_arms, train
from solver.experiments.rows import LOSSES, RESULTS
from solver.report.observer import SilentObserver

FAST = ("model.threads=1", "data.max_sequences=4", 'infer.views.transforms=["identity","rot90"]', "infer.score=false")

DATA_ARMS = data_arms()[:2]


@pytest.fixture
def tasks_file(tmp_path: Path) -> Path:
    """Two tasks with their answers."""
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps({task.id: task.to_json() for task in make_tasks(2)}))
    return path


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["mit", "--model", "nowhere"], "nowhere: no such model folder"),
        (["mit", "--set", "train.ranks=3"], "train.ranks"),
        (["mit", "--set", "budget.policy=adaptive"], "policy fixed"),
        (["ironbar", "--budget", "5x"], "'5x' is not a duration"),
        (["report", "--on", "arc3:nothing"], "arc3:nothing"),
        (["sweep", "--arm", "train.lr=1e-3", "--arm", "train.lr=1e-3"], "--arm"),
        (["sweep", "--arm", "train.rate=1e-3"], "train.rate"),
        (["sweep", "--arm", "train.lr=1e-3", "--recipe", "nobody"], "unknown recipe 'nobody'"),
        (["data", "--preset", "huge"], "unknown preset 'huge'"),
        (["mit", "--tasks", "1", "--corpus", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options: list[str], wanted: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reproduce", *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert wanted in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_which_tasks_are_asked(tmp_path: Path) -> None:
    def chosen(**given: object) -> tuple[int, str]:
        tasks, words = chosen_tasks(ReproduceOptions("mit", tmp_path, **given))  # type: ignore[arg-type]
        return len(tasks), words

    assert chosen(on="arc1:evaluation") == (400, "arc1:evaluation, all")
    assert chosen(on="arc1:evaluation", tasks=3)[0] == 3
    assert chosen(on="arc1:evaluation", small=True)[0] == command.SMALL_TASKS
    assert chosen(tasks=2, tokens=150) == (
        2,
        "Tasks held out of training, of at most 150 grid tokens: ARC-AGI training tasks and procedural families",
    )
    with pytest.raises(InputError, match="nothing can be scored"):
        chosen(on=str(write_challenges(tmp_path / "c.json", make_tasks(1))))


@pytest.mark.slow
def test_a_sweep_from_end_to_end(tasks_file: Path, tiny_base: Path, tmp_path: Path) -> None:
    options = ReproduceOptions(
        "sweep",
        tmp_path / "out",
        (tiny_base,),
        on=str(tasks_file),
        overrides=(*FAST, "train.steps=1"),
        arms=("train.lr=0.05",),
    )
    lines: list[str] = []
    done = reproduce(options, SilentObserver, lines.append)
    assert done.exit_code == 0
    (table,) = done.reports
    assert [(line.tasks, line.steps) for line in table.lines] == [(2, 1), (2, 1)]
    losses = [line.nats for line in table.lines]
    assert None not in losses
    assert losses[0] != losses[1]  # each under the adapters of its own arm
    assert "2 tasks have one test input each" in done.text
    for name in ("sweep.md", "sweep.json", "sweep.png", RESULTS, LOSSES):
        assert (options.out / name).stat().st_size > 0
    assert list((options.out / "runs").glob("*.adapters")) == []
    before = (options.out / RESULTS).read_text()
    again: list[str] = []
    assert reproduce(options, SilentObserver, again.append).text == done.text
    assert again[0] == "2 arms over 2 tasks: every row is there"
    assert (options.out / RESULTS).read_text() == before


@pytest.mark.slow
def test_data_compares_models(tasks_file: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(arm: DataArm, training: Training, out: Path, report: Any) -> Path:
        folder = tmp_path / arm.name
        if not folder.exists():
            shutil.copytree(tiny_base, folder)
            (folder / "special_tokens_map.json").write_text(json.dumps({"model": arm.name}))  # another identity
        return folder

    monkeypatch.setattr(reproduce_data_module, "train", trained)
    monkeypatch.setattr(reproduce_data_module, "data_arms", lambda sources: DATA_ARMS)
    common = ReproduceOptions("data", tmp_path / "out", on=str(tasks_file), overrides=(*FAST, "train.steps=1"))
    done = reproduce_data(DataOptions(common, Training()), SilentObserver, lambda line: None)
    (table,) = done.reports
    assert [(line.model, line.tasks) for line in table.lines] == [(arm.name, 2) for arm in DATA_ARMS for _ in range(2)]
    assert {line.compared.against for line in table.lines if line.compared} == {DATA_ARMS[0].name}
    assert all(line.nats is not None for line in table.lines)


@pytest.mark.slow
def test_a_training_is_done_once(tmp_path: Path) -> None:
    training = Training(steps=1, batch_tokens=512, max_tokens=512)
    lines: list[str] = []
    folder = train(DATA_ARMS[1], training, tmp_path, lines.append)
    assert (folder / "config.json").is_file()
    assert train(DATA_ARMS[1], training, tmp_path, lines.append) == folder
    assert lines == [f"training: {DATA_ARMS[1].name}, 1 steps"]
