"""Versions and specifiers in install.py, which has no library for them, against the `packaging` library; plans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from offline_wheels.install import accepts, parse_requirement, parse_version, plan

RELEASES = st.lists(st.integers(0, 3), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
VERSIONS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "", "1!"]),
        RELEASES,
        st.sampled_from(["", "", "a1", "b2", "rc1", "rc", "-alpha.1"]),
        st.sampled_from(["", "", ".post1", "-2", ".rev3"]),
        st.sampled_from(["", "", ".dev0", ".dev4"]),
    ),
)
LOCAL = st.sampled_from(["", "", "+cu128", "+cpu.2"])


@given(
    VERSIONS, LOCAL, st.lists(st.tuples(st.sampled_from(["==", "!=", "<=", ">=", "<", ">", "~="]), VERSIONS), max_size=2), LOCAL
)
def test_specifiers_accept_what_packaging_accepts(
    version: str, local: str, clauses: list[tuple[str, str]], wanted_local: str
) -> None:
    text = ",".join(f"{operator}{wanted}{wanted_local if operator in ('==', '!=') else ''}" for operator, wanted in clauses)
    try:
        expected = SpecifierSet(text).contains(version + local, prereleases=True)
    except InvalidSpecifier:
        return
    assert accepts(text, version + local) == expected, (text, version + local)


@given(VERSIONS, RELEASES, st.sampled_from(["==", "!="]))
def test_prefixes_match_as_in_packaging(version: str, prefix: str, operator: str) -> None:
    specifier = f"{operator}{prefix}.*"
    assert accepts(specifier, version) == SpecifierSet(specifier).contains(version, prereleases=True)


@given(VERSIONS, VERSIONS)
def test_versions_have_the_order_of_packaging(one: str, other: str) -> None:
    assert (parse_version(one)[0] < parse_version(other)[0]) == (Version(one) < Version(other))


@pytest.mark.parametrize(("specifier", "version"), [(">=1", "unknown"), (">=one", "1"), ("1.0", "1.0"), (">=1.*", "1.0")])
def test_what_cannot_be_read_is_not_accepted(specifier: str, version: str) -> None:
    assert not accepts(specifier, version)


def test_requirements_are_taken_apart() -> None:
    assert parse_requirement("FastAPI[standard, All] (>=0.1,!=0.2)") == ("fastapi", ["standard", "all"], ">=0.1,!=0.2")
    assert parse_requirement("ruamel.yaml") == ("ruamel-yaml", [], "")


def manifest(
    packages: dict[str, dict[str, list[str]] | None], requirements: list[str], always: tuple[str, ...] = ()
) -> dict[str, Any]:
    entries = {
        name: {"version": "1.0", "requires": requires or {}, "wheel": None if requires is None else {"file": ""}}
        for name, requires in packages.items()
    }
    return {"packages": entries, "requirements": requirements, "always": list(always)}


def test_what_a_package_that_stays_needs_is_not_asked() -> None:
    bundle = manifest({"top": {"": ["torch==2"]}, "torch": None, "cudnn": {"": []}}, ["top"])
    assert plan(bundle, {"torch": "2.0+cu128"}) == (["top"], {})
    assert list(plan(bundle, {"torch": "3.0"}).unmet) == ["torch"]


def test_extras_are_followed_of_packages_that_stay_too() -> None:
    bundle = manifest(
        {"top": {"": ["web[all]"]}, "web": {"": ["base"], "all": ["server"]}, "base": {"": []}, "server": {"": []}}, ["top"]
    )
    assert plan(bundle, {}).chosen == ["base", "server", "top", "web"]
    assert plan(bundle, {"web": "1.0"}).chosen == ["server", "top"]


def test_a_version_that_suits_one_requirement_and_not_a_later_one_does_not_stay() -> None:
    bundle = manifest({"top": {"": ["low>=1", "mid"]}, "mid": {"": ["low>=2"]}, "low": {"": ["deep"]}, "deep": {"": []}}, ["top"])
    assert plan(bundle, {"low": "1.5"}).chosen == ["deep", "low", "mid", "top"]
    assert plan(bundle, {"low": "2.5"}).chosen == ["mid", "top"]


def test_what_always_comes_from_the_bundle_does_whatever_is_installed() -> None:
    assert plan(manifest({"solver": {"": []}}, ["solver"], ("solver",)), {"solver": "1.0"}).chosen == ["solver"]


def test_circles_of_requirements_end() -> None:
    assert plan(manifest({"one": {"": ["other"]}, "other": {"": ["one"]}}, ["one"]), {}).chosen == ["one", "other"]
