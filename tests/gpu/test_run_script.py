"""`.ci/gpu/run.sh`, tried without a CUDA device: which parts it runs, with which arguments, and for how long at most."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "gpu" / "run.sh"
ALLOWED = 600  # seconds that a call on a borrowed machine may take
# Stands in for Python: logs its path and arguments; for pip it only makes the target folder
STAND_IN = r"""#!/usr/bin/env bash
echo "$PYTHONPATH $*" >>"$LOG"
case "$*" in
	*"pip install"*) [[ "$*" =~ --target\ ([^ ]*) ]] && mkdir -p "${BASH_REMATCH[1]}" ;;
	-c*) exit "${NO_DEVICE:-0}" ;;
	"-m pytest"*) sleep "${SLEEP:-0}"; exit 3 ;;
esac
"""
Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A call of the script; gives its exit code, the lines that the stand-in logged, and stderr."""
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def call(*options: str, **settings: str) -> tuple[int, list[str], str]:
        folders = {name: str(tmp_path / name.lower()) for name in ("OUT", "KEEP", "WORK")}
        environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "LOG": str(log), **folders, **settings}
        log.write_text("")
        done = subprocess.run(["bash", str(SCRIPT), *options], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, log.read_text().splitlines(), done.stderr

    return call


def parts(commands: Sequence[str]) -> list[str]:
    words = ("solver doctor", "-m pytest", "bench_fit.py", "bench_decode.py", "bench_vllm.py", "solver run", "pip install")
    return [word for command in commands for word in words if word in command]


def test_every_part_in_its_order_and_the_code_of_the_tests(run: Run) -> None:
    code, commands, _ = run("--steps", "5")
    assert code == 3
    assert parts(commands) == [
        "solver doctor",
        "-m pytest",
        *["bench_fit.py"] * 2,
        *["bench_decode.py"] * 2,
        *["bench_vllm.py"] * 2,
        *["solver run"] * 2,
    ]
    assert all("--steps 5" in command for command in commands if "bench_fit" in command)
    models = [re.search(r"--model (\S+)", command) for command in commands if "bench_vllm" in command]
    assert models[0] is not None
    assert models[1] is None
    assert any(f"half_billion.py {models[0][1]}" in command for command in commands)


def test_some_parts_alone(run: Run) -> None:
    code, commands, _ = run(PARTS="fit doctor", MODELS="embedded")
    assert (code, parts(commands)) == (0, ["solver doctor", "bench_fit.py"])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"PARTS": "doctor fits"}, "no part fits"),
        ({"MODELS": "4B"}, "no model 4B"),
        ({"NO_DEVICE": "1"}, "no CUDA device"),
        ({"PACK": "/nowhere"}, "run.sh: /nowhere: no such folder"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(settings: dict[str, str], told: str, run: Run) -> None:
    code, commands, errors = run(**settings)
    assert (code, parts(commands)) == (2, [])
    assert told in errors


def test_a_part_over_its_limit_is_ended_and_the_next_follows(run: Run) -> None:
    code, commands, _ = run(PARTS="tests runs", LIMIT="0.1s", SLEEP="60")
    assert code == 124
    assert parts(commands) == ["-m pytest", "solver run", "solver run"]


def test_a_pack_stands_for_an_environment(run: Run, tmp_path: Path) -> None:
    wheels = tmp_path / "pack" / "wheels"
    wheels.mkdir(parents=True)
    (wheels / "made-1.0-py3-none-any.whl").touch()
    settings = {"PACK": str(tmp_path / "pack"), "PARTS": "doctor"}
    _, commands, _ = run(**settings)
    assert parts(commands) == ["pip install", "solver doctor"]
    assert str(wheels / "made-1.0-py3-none-any.whl") in commands[0]
    site, rest = commands[-1].split()[0].split(":")
    assert Path(site).is_dir()
    assert Path(rest) == ROOT
    assert parts(run(**settings)[1]) == ["solver doctor"]  # the wheels are installed already
    (wheels / "other-1.0-py3-none-any.whl").touch()
    assert parts(run(**settings)[1]) == ["pip install", "solver doctor"]


def seconds(time: str) -> int:
    return int(time[:-1]) * {"s": 1, "m": 60}[time[-1]]


def test_the_calls_in_its_comment_end_within_ten_minutes(run: Run) -> None:
    calls = re.findall(r"^#   (PACK=pack .*) \.ci/gpu/run\.sh$", SCRIPT.read_text(), re.MULTILINE)
    assert calls
    asked: list[str] = []
    for call in calls:
        given = {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', call)}
        limit, budget = seconds(given["LIMIT"]), seconds(given.get("BUDGET", "0s"))
        _, commands, _ = run(**{name: given[name] for name in ("PARTS", "MODELS") if name in given})
        cost = dict.fromkeys(("-m pytest", "bench_fit.py", "bench_decode.py", "bench_vllm.py"), limit + 20) | {
            "solver doctor": 70,
            "solver run": budget,
        }
        # a minute is left for installing wheels and writing the model
        assert sum(cost[part] for part in parts(commands)) <= ALLOWED - 60, call
        asked += given["PARTS"].split()
    assert sorted(asked) == ["decode", "doctor", "engines", "fit", "runs", "tests"]
