"""`solver profile` on a real model: every number there, in the units they claim, and every failure a row."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from solver.budget.profile import MEASURED, load_profile
from solver.cli import app
from solver.codec import grid_codec
from solver.commands import profile_bench
from solver.commands.profile import ProfileOptions, profile
from solver.commands.profile_bench import Bench, material
from solver.config import load_settings
from solver.errors import InputError
from solver.types import Deadline, Fit, FitJob, Result

FAST = ["train.batch_sequences=2", 'infer.views.transforms=["identity","rot90"]', "model.threads=1", "model.device=cpu"]


def options(tiny_base: Path, lengths: tuple[int, ...] = (48, 96), seconds: float | None = None, *more: str) -> ProfileOptions:
    return ProfileOptions(load_settings(overrides=[*FAST, *more]), model=tiny_base, lengths=lengths, seconds=seconds)


@pytest.fixture
def quick_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch in a process of its own takes seconds: one test does."""
    monkeypatch.setattr("solver.commands.profile._import_seconds", lambda _: 1.0)


@pytest.mark.slow
def test_a_real_model_is_measured_in_full(tiny_base: Path) -> None:
    lines: list[str] = []
    found = profile(options(tiny_base), lines.append)
    assert not found.estimate
    assert found.measured_at
    assert found.machine.peak_flops
    assert found.model.layers == 2
    (variant,) = found.variants
    assert (variant.trainer, variant.rank, variant.batch, variant.views) == ("lora", 32, 2, 2)
    assert variant.import_seconds > 0
    assert variant.load_seconds > 0
    for row in variant.rows:
        for name in set(MEASURED) - {"search_rate", "decode_rate"}:  # a random model may end at once, or find nothing
            assert getattr(row, name) is not None, (name, row.note)
        assert row.steps >= 1
    assert [row.tokens for row in variant.rows] == [48, 96]
    assert any("48 tokens" in line for line in lines)
    assert any("96 tokens" in line for line in lines)


def test_lengths_beyond_the_context_or_the_time_are_rows_that_say_so(tiny_base: Path, quick_import: None) -> None:
    (variant,) = profile(options(tiny_base, (16384,)), lambda _: None).variants
    assert "context ends at 8,192" in variant.rows[0].note
    (variant,) = profile(options(tiny_base, (48, 8192), 0.05), lambda _: None).variants
    assert [row.step_seconds for row in variant.rows] == [None, None]
    assert all("skipped" in row.note or "cut by --seconds" in row.note for row in variant.rows)


def test_a_device_that_is_not_there_is_refused(tiny_base: Path) -> None:
    with pytest.raises(InputError, match="CUDA devices"):
        profile(options(tiny_base, (48,), None, "model.device=cuda:7"), lambda _: None)


@pytest.mark.slow
def test_the_command_writes_compares_and_rewrites(tiny_base: Path, tmp_path: Path, quick_import: None) -> None:
    out, document = tmp_path / "profile.json", tmp_path / "document.md"
    document.write_text("<!-- profile cpu: written by `solver profile --table` -->\n<!-- end of profile cpu -->\n")
    wishes = [part for wish in FAST for part in ("--set", wish)]
    arguments = ["profile", "--model", str(tiny_base), "--machine", "cpu", "--lengths", "48", "--out", str(out), *wishes]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    second = CliRunner().invoke(app, [*arguments, "--compare", str(out), "--table", str(document)])
    assert second.exit_code == 0, second.output
    assert "new / old" in second.output
    assert "| none | 48 |" in document.read_text()
    assert load_profile(out).machine.preset == "cpu"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lengths", "512,x"], "--lengths 512,x"),
        (["--lengths", "4"], "16 or more"),
        (["--quantization", "int3"], "int3"),
        (["--machine", "abacus"], "abacus"),
        (["--compare", "absent.json"], "absent.json"),
        (["--out", "/dev/null/profile.json"], "/dev/null/profile.json: cannot be written"),
        (["--out", "/"], "it is a folder"),
        (["--table", "absent.md"], "absent.md"),
        (["--machine", "cpu", "--table", "/dev/null"], "needs the lines"),
        (["--stored", "--machine", "abacus"], "abacus"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert len(result.output.splitlines()) == 1


def test_the_stored_profile_is_shown_without_measuring(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "--stored", "--machine", "kaggle-l4x4", "--out", str(tmp_path / "l4.json")])
    assert result.exit_code == 0
    assert "NOT MEASURED" in result.output
    assert json.loads((tmp_path / "l4.json").read_text())["machine"]["devices"] == 4


# -- the bench, around stand-ins


class _Parts:
    """A base, a trainer and an engine in one, which fail as they are told."""

    codec, context = grid_codec(), 4096

    def __init__(self, fit_reason: str = "steps", fails_above: int = 10**9, error: str = "out of memory: no room") -> None:
        import torch

        self.device = torch.device("cpu")
        self.fit_reason, self.fails_above, self.error = fit_reason, fails_above, error
        self.steps: list[int] = []

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        for job in jobs:
            self.steps.append(job.steps)
            status: Any = {"steps": "complete", "deadline": "cut"}.get(self.fit_reason, "failed")
            yield Fit(job.adapter_id, status, self.fit_reason, None, job.steps, 1, 0.0, 1.0, 1.0)

    def answer(self, requests: Sequence[Any], deadline: Deadline) -> Iterator[Result]:
        for request in requests:
            if len(request.prompt) > self.fails_above:
                yield Result(request.id, "failed", (), self.error)
            else:
                new = getattr(request, "max_new_tokens", 0)
                yield Result(request.id, "complete", (), "", len(request.prompt), new)

    sample = search = score = answer


def bench(parts: _Parts) -> Bench:
    from solver.budget.prior import stored

    variant = stored("cpu").variants[0].model_copy(update={"views": 3, "batch": 2})
    return Bench(parts, parts, parts, load_settings(), variant)  # type: ignore[arg-type]


def test_running_out_of_memory_is_a_row_that_says_so() -> None:
    row = bench(_Parts("oom", fails_above=0)).row(64, 0.01, Deadline.after(60))
    assert row.step_seconds is None
    assert row.prefill_seconds is None
    assert row.note == "training: out of memory; inference: out of memory: no room"


def test_an_error_of_the_allocator_is_a_row_too_and_others_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _Parts()

    def fit(*_: object) -> Iterator[Fit]:
        raise error

    monkeypatch.setattr(parts, "fit", fit)
    error: Exception = MemoryError()
    assert bench(parts).row(64, 0.01, Deadline.after(60)).note.split("; ")[0] == "training: out of memory"
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        bench(parts).row(64, 0.01, Deadline.after(60))


def test_inference_is_measured_where_training_finds_no_room() -> None:
    row = bench(_Parts("oom")).row(64, 0.01, Deadline.after(60))
    assert row.step_seconds is None
    assert row.prefill_seconds is not None
    assert row.score_tokens == profile_bench.NEW_TOKENS


def test_a_cut_is_not_taken_for_a_measurement() -> None:
    row = bench(_Parts("deadline")).row(64, 0.01, Deadline.after(60))
    assert row.step_seconds is None
    assert "training: cut by --seconds" in row.note


def test_steps_are_repeated_up_to_the_most_and_at_least_once() -> None:
    parts = _Parts()
    assert bench(parts).row(64, 100.0, Deadline.after(60)).steps == profile_bench.MAX_STEPS
    assert parts.steps == [1, 1, 1 + profile_bench.MAX_STEPS]  # the first pays for what is done once
    assert bench(parts).row(64, 0.0, Deadline.after(60)).steps == 1


def test_prompts_leave_room_for_answers_and_say_so() -> None:
    row = bench(_Parts(fails_above=4096 - profile_bench.NEW_TOKENS)).row(4096, 0.0, Deadline.after(60))
    assert row.note.split("; ")[0] == "prompts have 3,968 tokens, to leave room for answers"


def test_a_model_that_finds_nothing_has_no_rate_of_search_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = _Parts()

    def search(requests: Sequence[Any], deadline: Deadline) -> Iterator[Result]:
        yield from (Result(request.id, "complete", (), "", len(request.prompt), 0) for request in requests)

    monkeypatch.setattr(parts, "search", search)
    row = bench(parts).row(64, 0.01, Deadline.after(60))
    assert row.search_rate is None
    assert "search: too few tokens to time" in row.note


@pytest.mark.parametrize("tokens", [16, 100, 313, 5000])
def test_material_has_the_length_asked_for(tokens: int) -> None:
    codec = grid_codec()
    sequence, prompt, answer = material(codec, tokens, np.random.default_rng(0))
    assert len(sequence) == len(prompt) == tokens
    assert sequence.weights[0] == 0
    assert sequence.weights[-1] == 1  # the trainer reads all of it
    assert tuple(prompt[-len(codec.output_marker) :]) == codec.output_marker
    assert 0 < len(answer) <= profile_bench.NEW_TOKENS


def test_material_differs_from_draw_to_draw() -> None:
    rng = np.random.default_rng(0)
    first, second = (material(grid_codec(), 400, rng)[1] for _ in range(2))
    assert not np.array_equal(first, second)


PEAKS = """
import torch
import numpy as np
from solver.commands.profile_bench import peak_of, reset_peak
cpu = torch.device("cpu")
found = [peak_of(cpu)]
block = np.ones(2**25)  # 256 MiB
found.append(peak_of(cpu))
del block
reset_peak(cpu)
print(*found, peak_of(cpu))
"""


def test_the_peak_of_memory_grows_and_can_begin_anew() -> None:
    """In a process of its own: what others allocated before does not hide what is allocated now."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, timeout=120)
    before, within, after = map(int, done.stdout.split())
    assert within - before > 2**27
    if not resets_peaks():
        pytest.skip("this system does not let a process reset its peak")
    assert within - after > 2**27


def resets_peaks() -> bool:
    """Whether /proc/self/clear_refs does what proc(5) says: told by another way of asking than the one under test."""
    block = b"1" * 2**28
    del block
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    kilobytes = dict(re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    return int(kilobytes["VmHWM"]) - int(kilobytes["VmRSS"]) < 2**17
