from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.errors import InputError
from solver.verify.samples import FORMAT, Problem, Sample, SampleSet, SamplesWriter, read_samples, write_samples

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=8).map(tuple)
PROBLEM = Problem("p0", (1, 2), "3")
SAMPLE = Sample("p0", "1 + 2 = 3", (4, 5, 6), -1.5, "3", True)


@st.composite
def sample_sets(draw: st.DrawFn) -> SampleSet:
    names = draw(st.lists(st.text(), unique=True, max_size=4))
    problems = tuple(Problem(name, draw(IDS), draw(st.text(min_size=1))) for name in names)
    samples = []
    for name in names:
        kind = st.builds(
            Sample,
            st.just(name),
            st.text(),
            IDS,
            st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.text(),
            st.booleans(),
        )
        samples += draw(st.lists(kind, max_size=3))
    return SampleSet(draw(st.text()), problems, tuple(samples))


@given(sample_sets())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: SampleSet) -> None:
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    write_samples(path, written)
    assert read_samples(path, written.generator) == written


def test_a_file_that_a_kill_cut_off_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with SamplesWriter(path, "g") as writer:
        writer.add(PROBLEM, [SAMPLE, SAMPLE])
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with SamplesWriter(path, "g") as writer:
            missing = 2 - len(writer.done.samples)
            assert missing == 2 - max(0, whole[:length].count(b"\n") - 2)
            writer.add(PROBLEM, [SAMPLE] * missing)
        assert path.read_bytes() == whole


def test_samples_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_samples(path, SampleSet("g", (PROBLEM,), (SAMPLE,)))
    for use in (lambda: read_samples(path, "other"), lambda: SamplesWriter(path, "other")):
        with pytest.raises(InputError, match="samples of another model: g sampled them, this is other"):
            use()


HEADER = {"format": FORMAT, "generator": "g"}
GOOD = {"id": "p0", "prompt": [1, 2], "answer": "3"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: not a file of samples"),
        ([{"format": "solver-samples-0", "generator": "g"}], "line 1: not a file of samples"),
        ([HEADER, {"question": "1 + 2"}], "line 2: neither a problem nor a sample"),
        ([HEADER, {"problem": {"id": "p0", "prompt": [1]}}], "line 2: field 'answer' of the problem is missing"),
        ([HEADER, {"problem": GOOD | {"text": ""}}], "line 2: field 'text' of the problem is unknown"),
        ([HEADER, {"problem": GOOD | {"answer": ""}}], "line 2: problem 'p0' has no answer"),
        ([HEADER, {"problem": GOOD | {"prompt": [True]}}], "line 2: field 'prompt' of the problem is not a list of token ids"),
        ([HEADER, {"problem": GOOD}, {"problem": GOOD}], "line 3: problem 'p0' is there twice"),
        ([HEADER, {"sample": None}], "line 2: the sample is not an object"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path: Path, lines: list[object], message: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=message) as refused:
        read_samples(path)
    assert "\n" not in str(refused.value)


def test_a_sample_of_an_unknown_problem_and_a_line_that_is_not_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_samples(path, SampleSet("g", (PROBLEM,), (SAMPLE,)))
    text = path.read_text()
    path.write_text(text.replace('"problem":"p0"', '"problem":"p1"'))
    with pytest.raises(InputError, match="line 3: a sample of problem 'p1', which no earlier line has"):
        read_samples(path)
    path.write_text(text + '{"sample":')
    with pytest.raises(InputError, match="line 4: not valid JSON"):
        read_samples(path)
