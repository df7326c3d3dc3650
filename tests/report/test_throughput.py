"""Step throughput: the numbers, and the three forms of its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from solver.budget.prior import stored
from solver.budget.profile import Profile
from solver.errors import InputError
from solver.report.throughput import check_throughput_files, step_costs, throughput_table, write_throughput

CPU = stored("cpu")


def profile(devices: int = 1) -> Profile:
    """Two lengths, of which one could not be measured."""
    variant = CPU.variants[0]
    rows = (variant.rows[0].model_copy(update={"tokens": 500, "step_seconds": 0.5}),)
    rows += (variant.rows[0].model_copy(update={"tokens": 1000, "step_seconds": None}),)
    machine = CPU.machine.model_copy(update={"devices": devices})
    variants = (variant.model_copy(update={"rows": rows, "context": 8192}),)
    return CPU.model_copy(update={"machine": machine, "variants": variants})


def test_steps_that_fit_follow_from_one_step() -> None:
    (one,) = step_costs(profile())
    assert (one.tokens, one.context, one.quantization) == (500, 8192, "none")
    assert one.seconds_10_steps == 5.0
    assert one.hours_1000_steps == pytest.approx(500 / 3600)
    assert one.steps_a_task == pytest.approx(43_200 / 240 / 0.5)
    (four,) = step_costs(profile(4))
    assert four.steps_a_task == pytest.approx(4 * one.steps_a_task)


def test_the_table_fits_a_terminal() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(throughput_table(stored("kaggle-l4x4")))
    text = capture.get()
    assert "…" not in text
    assert "240 tasks share 12 h of 4 x" in " ".join(text.split())


def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    files = [tmp_path / f"steps{suffix}" for suffix in (".json", ".md", ".png")]
    check_throughput_files(files)
    told: list[str] = []
    for file in files:
        write_throughput(file, profile(), told.append)
    assert told == []
    found = json.loads(files[0].read_text())
    assert (found["hours"], found["tasks"], len(found["rows"])) == (12, 240, 1)
    assert found["rows"][0]["steps_a_task"] == 360
    head, _, row, _, title = files[1].read_text().splitlines()
    assert title.startswith("step throughput: 240 tasks share 12 h of ")
    assert dict(zip(head.split(" | "), row.split(" | "), strict=True))["tokens"] == "500"
    assert row.endswith("| 5 | 0.139 | 360 |")
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["steps.txt", "steps", "nowhere/steps.json"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name):
        check_throughput_files([tmp_path / name])
