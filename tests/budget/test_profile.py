"""The profile file: what goes in comes out, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_cases import CPU, TINY, profile, row, variant

from solver.budget.profile import Row, load_profile, ratios, save_profile
from solver.errors import InputError

some = st.none() | st.floats(1e-6, 1e6)


@given(
    st.lists(
        st.builds(Row, tokens=st.integers(1, 10**5), step_seconds=some, decode_rate=some, note=st.text(max_size=20)), max_size=5
    )
)
def test_a_saved_profile_is_loaded_unchanged(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> None:
    by_length = {r.tokens: r for r in rows}
    saved = profile(variant(*(by_length[tokens] for tokens in sorted(by_length))))
    path = tmp_path_factory.mktemp("profiles") / "new" / "profile.json"
    save_profile(path, saved)
    assert load_profile(path) == saved


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        load_profile(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("{", "cut off"),
        ("[]", "not a profile"),
        ('{"tasks": 3}', "not a profile"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1}', "machine"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InputError) as refusal:
        load_profile(path)
    assert str(path) in str(refusal.value)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("step_seconds", -1.0, "step_seconds"),
        ("step_seconds", float("nan"), "step_seconds"),
        ("step_seconds", "fast", "step_seconds"),
        ("decode_rate", 0, "decode_rate"),
        ("invented", 1, "invented"),
        ("tokens", 4096, "do not rise"),
    ],
)
def test_a_damaged_number_is_named(tmp_path: Path, field: str, value: object, words: str) -> None:
    path = tmp_path / "profile.json"
    save_profile(path, profile())
    content = json.loads(path.read_text())
    content["variants"][0]["rows"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        load_profile(path)


def test_a_folder_in_the_way_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_profile(tmp_path / "file" / "profile.json", profile())


def test_profiles_of_the_same_place_do_not_differ() -> None:
    assert profile().differences(CPU, TINY) == []


def test_another_machine_thread_count_or_model_is_a_difference() -> None:
    elsewhere = CPU.model_copy(update={"device": "another processor", "threads": 9})
    assert any("another processor" in line for line in profile().differences(elsewhere, TINY))
    assert any("4 threads, now 2" in line for line in profile().differences(CPU.model_copy(update={"threads": 2}), TINY))
    other = TINY.model_copy(update={"layers": TINY.layers + 1, "name": "other"})
    assert any("not other" in line for line in profile().differences(CPU, other))


def test_ratios_cover_what_both_have_and_nothing_else() -> None:
    new = profile(variant(row(512, step_seconds=2.0, search_rate=None), row(2048)), variant(row(512), quantization="nf4"))
    old = profile(variant(row(512, step_seconds=1.0), row(1024)))
    found = {(quantization, tokens, what): (a, b) for quantization, tokens, what, a, b in ratios(new, old)}
    assert found["none", 512, "step_seconds"] == (2.0, 1.0)
    assert found["none", None, "load_seconds"] == (1.0, 1.0)
    assert ("none", 512, "search_rate") not in found
    assert {(quantization, tokens) for quantization, tokens, _ in found} == {("none", None), ("none", 512)}


def test_the_variant_asked_for_or_the_first() -> None:
    both = profile(variant(), variant(quantization="nf4"))
    assert both.variant("nf4").quantization == "nf4"
    assert profile().variant("nf4").quantization == "none"


def test_points_leave_out_what_was_not_measured() -> None:
    assert variant(row(512, step_seconds=None), row(1024)).points("step_seconds") == [(1024, 2.048)]


def test_a_worker_is_ready_after_everything_was_made() -> None:
    assert variant().start_seconds == 6.75
