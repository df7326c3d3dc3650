"""A stand-in for the solver's command line, whose runs fail as they are told. It is packed into a wheel as `solver/__main__.py`.

`SOLVER_FAULTS` names a folder. `plan.json` in it says what happens; all of it may be left out:

    {"machine": NAME, "runs": [WHAT, ...], "check": WHAT}

The doctor finds the GPUs of the machine: "cpu" (none), "t4" or "l4"; or it is "broken". Each run does what its entry says (see
`run`); those beyond the last one solve everything. The check "accepts", "refuses" or "crashes".

Every command appends its arguments to `calls.jsonl` there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FAULTS = Path(os.environ["SOLVER_FAULTS"])
PLAN = json.loads((FAULTS / "plan.json").read_text())
GPUS = {"cpu": {}, "t4": {"cuda:0": "capability 7.5"}, "l4": {"cuda:0": "capability 8.9", "cuda:1": "capability 8.9"}}
ANSWER = {"attempt_1": [[7]], "attempt_2": [[8, 8]]}


def option(name: str) -> str:
    """The value of an option of this command."""
    return sys.argv[sys.argv.index(name) + 1]


def answer(out: Path, challenges: dict[str, Any], answers: Any = ANSWER) -> None:
    """Write a submission with these answers."""
    submission = {id_: [answers for _ in task.get("test", [0])] for id_, task in challenges.items()}
    (out / "submission.json").write_text(json.dumps(submission))


def run(number: int) -> int:
    """One run: its exit code."""
    out = Path(option("--out"))
    out.mkdir(parents=True, exist_ok=True)
    challenges = json.loads(Path(sys.argv[2]).read_text())
    runs = PLAN.get("runs", [])
    does = runs[number] if number < len(runs) else "solve"
    if does == "crash":
        raise RuntimeError("crashed at the start")
    if does == "import vllm":
        import vllm  # noqa: F401
    if does == "hang":
        hang()
    print(f"{len(challenges)} tasks", flush=True)
    if does == "invalid":
        answer(out, challenges, {"attempt_1": [[7]], "attempt_2": [[8], [8, 8]]})
        return 0
    answer(out, challenges)
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "hang after answers":
        hang()
    if does == "litter":
        working = Path(os.environ["SOLVER_KAGGLE_ROOT"]) / "kaggle/working"
        (working / "left.whl").write_text("")
        (working / "cache").mkdir()
        (working / "cache/file").write_text("")
    return 0


def hang() -> None:
    """Never end, whatever signal comes, and leave a child that does not either."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
    (FAULTS / "hanging").open("a").write(f"{os.getpid()} {child.pid}\n")
    time.sleep(600)


def doctor() -> int:
    """What the doctor of the solver prints, in short."""
    machine = PLAN.get("machine", "cpu")
    if machine == "broken":
        raise RuntimeError("the doctor crashed")
    found = {"torch": {"value": "2.10.0", "state": "ok", "why": ""}}
    found |= {topic: {"value": "a GPU", "state": "ok", "why": why} for topic, why in GPUS[machine].items()}
    print("a warning of some library {with braces}")
    print(json.dumps({"ready": True, "findings": found}, indent=2))
    return 0


def check(does: str) -> int:
    """The last check: it accepts the submission, names a defect, or crashes."""
    if does == "crashes":
        raise RuntimeError("the check crashed")
    print("task aaaaaaaa: is missing" if does == "refuses" else "complete and valid")
    return 1 if does == "refuses" else 0


def main() -> int:
    """The command."""
    calls = FAULTS / "calls.jsonl"
    earlier = calls.read_text().splitlines() if calls.exists() else []
    with calls.open("a") as file:
        file.write(json.dumps({"path": sys.path, "argv": sys.argv[1:]}) + "\n")
    if sys.argv[1] == "doctor":
        return doctor()
    if sys.argv[1] == "check":
        return check(PLAN.get("check", "accepts"))
    return run(sum(json.loads(line)["argv"][0] == "run" for line in earlier))


if __name__ == "__main__":
    sys.exit(main())
