"""Targets, locks, bundles and their verification, with an index of small wheels on this disk."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

import pytest
from tiny_wheels import BASE, WITH_UV, make_wheel, run_installer

import offline_wheels.build as build_module
from offline_wheels import __main__ as command_line
from offline_wheels import target as targets
from offline_wheels.build import build, oldest_glibc, summary
from offline_wheels.lock import index_options, inputs_digest, is_in_step, make_lock, read_lock
from offline_wheels.target import Target, WheelError, load_target, target_names
from offline_wheels.verify import find_python, verify
from offline_wheels.wheel import best_wheel, build_own_wheel, read_wheel, sha256_of, tags_of

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip and uv take for the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setattr(targets, "LOCKS", tmp_path / "locks")
    monkeypatch.setenv("PATH", f"{WITH_UV}:{os.environ['PATH']}")
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_NO_CACHE"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_own_wheel(tmp_path_factory.mktemp("own"), write_project(tmp_path_factory.mktemp("project")))


@pytest.fixture
def project(tmp_path: Path, built_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project whose wheel a bundle holds; setuptools builds it once for all tests, which takes seconds."""
    monkeypatch.setattr(build_module, "build_own_wheel", lambda folder, _: Path(shutil.copy(built_once, folder)))
    return write_project(tmp_path / "project")


def write_project(folder: Path) -> Path:
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text("answer = 42\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "mine"\nversion = "0.3"\ndependencies = ["tiny-low>=1"]\n'
        '[project.optional-dependencies]\ngpu = ["mine[more]"]\nmore = ["tiny-more"]\n'
    )
    return folder


def make_target(**changes: object) -> Target:
    return Target.model_validate(
        {
            "name": "here",
            "description": "",
            "rank": 1,
            "python": HERE,
            "glibc": "2.28",
            "torch_build": "cpu",
            "imports": ["mine"],
            **changes,
        }
    )


def write_lock(target: Target, project: Path, *wheels: Path) -> None:
    """What `make_lock` writes, without uv."""
    lines = [f"# inputs: {inputs_digest(target, project)}"]
    for path in sorted(wheels):
        wheel = read_wheel(path)
        lines.append(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}  # {path.name}")
    target.lock.parent.mkdir(exist_ok=True)
    target.lock.write_text("\n".join(lines) + "\n")


# --- targets and their locks ---


@pytest.mark.parametrize("name", target_names())
def test_every_target_has_a_lock_that_is_in_step_with_it(name: str) -> None:
    target = load_target(name)
    assert is_in_step(target), f"run python -m offline_wheels lock {name}"
    locked, tags = read_lock(target), tags_of(target)
    for each in locked.values():
        assert best_wheel([each.file], tags) == each.file, f"{each.file} does not fit the target"
    for package, version in target.kept.items():
        assert locked[package].version == version.partition("+")[0]


def test_the_target_for_cuda_13_has_the_pins_of_this_package() -> None:
    import tomllib

    extras = tomllib.loads((targets.PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = dict(pin.replace("_", "-").split("==") for pin in extras["gpu"] + extras["cpu"] if "==" in pin)
    locked = read_lock(load_target("cuda13"))
    assert {name: locked[name].version for name in pins} == pins


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("glibs = '2.28'", "glibs"),
        ("python = '3'", "python"),
        ("requirements = ['a b']", "'a b' is not a requirement"),
        ("image = {numpy = 'two'}", "'two' is not a version of numpy"),
        ("replaced = ['torch']", "torch is not in image"),
        ("rank =", "here.toml"),
    ],
)
def test_a_target_with_a_mistake_is_named_with_it(tmp_path: Path, text: str, said: str) -> None:
    whole = {"description": "''", "rank": "1", "python": "'3.12'", "glibc": "'2.28'", "torch_build": "'cpu'"}
    lines = [f"{key} = {value}" for key, value in whole.items() if not text.startswith(f"{key} ")]
    (tmp_path / "here.toml").write_text("\n".join([*lines, text]))
    with pytest.raises(WheelError, match=said):
        load_target("here", tmp_path)


def test_a_target_that_is_not_there_is_answered_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["build", "no-such"]) == 1
    assert "no-such: no such target; there are cpu, cuda13, kaggle-cu128" in capsys.readouterr().err


def test_platforms_begin_with_the_newest_c_library_and_none_is_newer() -> None:
    platforms = make_target(glibc="2.28").platforms
    assert platforms[0] == "manylinux_2_28_x86_64"
    assert {"manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"} <= set(platforms)
    assert "manylinux_2_29_x86_64" not in platforms


def test_of_the_wheels_of_a_release_the_one_is_locked_that_an_installer_takes() -> None:
    tags = tags_of(make_target(python="3.12", glibc="2.28"))
    names = [
        "py3-none-any",
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp312-cp312-manylinux_2_35_x86_64",
    ]
    files = [f"pack-1.0-{tag}.whl" for tag in names]
    assert best_wheel(files, tags) == files[2]
    assert best_wheel([files[0], "pack-1.0-cp39-abi3-manylinux_2_5_x86_64.manylinux1_x86_64.whl"], tags) != files[0]
    assert best_wheel([files[1], files[3]], tags) is None
    assert best_wheel([files[2], files[2].replace("1.0-", "1.0-3-")], tags) == "pack-1.0-3-cp312-cp312-manylinux_2_28_x86_64.whl"


def test_uv_locks_the_newest_versions_that_suit_the_image(index: Path, project: Path) -> None:
    if WITH_UV == BASE:
        pytest.skip("uv is not installed")
    for version in ("1.0", "1.1", "2.0"):
        make_wheel(index, "tiny-low", version)
    make_wheel(index, "tiny-top", requires=("tiny-low",))
    make_wheel(index, "tiny-more")
    make_wheel(index, "tiny-more", tag="cp36-cp36m-manylinux_2_17_x86_64")
    target = make_target(requirements=["tiny-top"], extras=["gpu"], image={"tiny-low": "1.1+cu128"})
    assert not target.lock.exists()
    made = make_lock(target, project=project)
    assert made == read_lock(target)
    assert {name: each.version for name, each in made.items()} == {"tiny-low": "1.1", "tiny-more": "1.0", "tiny-top": "1.0"}
    assert made["tiny-more"].file == "tiny_more-1.0-py3-none-any.whl"
    assert made["tiny-low"].sha256 == sha256_of(index / "tiny_low-1.1-py3-none-any.whl")
    assert is_in_step(target, project)
    assert not is_in_step(make_target(requirements=["tiny-top>=1"], extras=["gpu"], image={"tiny-low": "1.1+cu128"}), project)
    with pytest.raises(WheelError, match=r"uv finds no set of versions: .*tiny-none"):
        make_lock(make_target(requirements=["tiny-none"]), project=project)


def test_uv_asks_the_index_of_pip_and_that_of_torch_for_the_build_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.invalid/simple")
    options = index_options("https://torch.invalid/{build}", make_target(torch_build="cu128"))
    assert options[:4] == ["--default-index", "https://mirror.invalid/simple", "--index", "https://torch.invalid/cu128"]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.invalid/simple")
    assert index_options("", make_target()) == []


# --- bundles ---


def test_a_bundle_holds_what_the_image_lacks_and_no_more(index: Path, project: Path, tmp_path: Path) -> None:
    wheels = [
        make_wheel(
            index, "tiny-low", requires=("tiny-torch==2.0", "tiny-win; sys_platform == 'win32'", "tiny-extra; extra == 'x'")
        ),
        make_wheel(index, "tiny-torch", "2.0", requires=("tiny-cudnn==9",)),
        make_wheel(index, "tiny-cudnn", "9"),
        make_wheel(index, "tiny-new", "5.2"),
    ]
    for path in (wheels[1], wheels[2]):
        path.rename(tmp_path / path.name)  # not to be had, as nobody should ask for it
    target = make_target(requirements=["tiny-new"], image={"tiny-torch": "2.0+cu128", "tiny-new": "5.0"}, replaced=["tiny-new"])
    write_lock(target, project, wheels[0], wheels[3], *(tmp_path / path.name for path in wheels[1:3]))
    built = build(target, tmp_path / "out", project=project, say=lambda _: None)
    assert sorted(path.name for path in built.folder.iterdir()) == ["install.py", "lock.txt", "manifest.json", "wheels"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["here", "install.py"]
    names = sorted(path.name.partition("-")[0] for path in (built.folder / "wheels").iterdir())
    assert names == ["mine", "tiny_low", "tiny_new"]
    assert built.left_out == {"tiny-cudnn": "9", "tiny-torch": "2.0"}
    assert built.manifest["packages"]["tiny-low"]["requires"] == {"": ["tiny-torch==2.0"]}
    assert "left to the image: tiny-cudnn 9, tiny-torch 2.0" in summary(built)
    with pytest.raises(WheelError, match="pip cannot download"):
        build(target, tmp_path / "out", full=True, project=project, say=lambda _: None)
    assert (built.folder / "manifest.json").is_file()  # the failed build leaves the earlier one


def test_two_builds_of_one_lock_give_the_same_manifest(index: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    target = make_target()
    write_lock(target, project, make_wheel(index, "tiny-low"))
    first = build(target, tmp_path / "first", project=project, say=lambda _: None)
    before = os.umask(0o077)
    try:
        for path in project.rglob("*"):
            os.utime(path, (time.time() + 5000, time.time() + 5000))
        (project / "mine" / "__init__.py").chmod(0o600)
        (project / "mine" / "__pycache__").mkdir()
        (project / "mine" / "__pycache__" / "old.cpython-311.pyc").write_bytes(b"cache")
        second = build(target, tmp_path / "second", project=project, say=lambda _: None)
    finally:
        os.umask(before)
    assert (first.folder / "manifest.json").read_bytes() == (second.folder / "manifest.json").read_bytes()
    entry = first.manifest["packages"]["mine"]
    assert (entry["version"], entry["wheel"]["size"] > 0, entry["requires"]) == ("0.3", True, {"": ["tiny-low>=1"]})
    # a wheel that is locked and there already is not asked for again
    for path in index.iterdir():
        path.unlink()
    third = build(target, tmp_path / "first", project=project, say=pytest.fail)
    assert third.manifest == first.manifest


def test_what_the_index_gives_in_place_of_the_locked_wheel_is_refused(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target()
    write_lock(target, project, make_wheel(index, "tiny-low"))
    make_wheel(index, "tiny-low", source="something else\n")
    with pytest.raises(WheelError, match="pip cannot download the wheels of the lock"):
        build(target, tmp_path / "out", project=project, say=lambda _: None)
    assert not (tmp_path / "out" / "here").exists()


def test_a_lock_that_is_missing_or_of_other_inputs_or_lacks_a_package_is_refused(
    index: Path, project: Path, tmp_path: Path
) -> None:
    target = make_target()
    with pytest.raises(WheelError, match="has no lock"):
        build(target, tmp_path / "out", project=project)
    write_lock(target, project, make_wheel(index, "tiny-low", requires=("tiny-forgotten",)))
    with pytest.raises(WheelError, match=r"tiny-low needs tiny-forgotten.* nor does the lock"):
        build(target, tmp_path / "out", project=project, say=lambda _: None)
    with pytest.raises(WheelError, match="its lock is not of this target"):
        build(make_target(requirements=["tiny-low"]), tmp_path / "out", project=project)
    target.lock.write_text("tiny-low==1.0\n")
    with pytest.raises(WheelError, match=r"here\.txt:1: not a line of a lock"):
        read_lock(target)


def test_this_packages_wheel_holds_the_models_and_presets(tmp_path: Path) -> None:
    path = build_own_wheel(tmp_path)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    models = targets.PROJECT / "solver" / "model" / "embedded"
    assert {f"solver/model/embedded/{file.relative_to(models)}" for file in models.rglob("*.safetensors")} <= names
    assert {"solver/machines/kaggle-l4x4.toml", "solver/recipes/default.toml", "solver/cli.py"} <= names
    templates = targets.PROJECT / "solver" / "report" / "templates"
    assert {f"solver/report/templates/{file.name}" for file in templates.iterdir()} <= names
    assert not [name for name in names if name.startswith(("tests", "offline_wheels", "kaggle"))]


@pytest.mark.parametrize(
    ("header", "licence"),
    [
        ("License-Expression: Apache-2.0", "Apache-2.0"),
        ("License: MIT", "MIT"),
        ("Classifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: " + "long " * 40 + "\nClassifier: License :: OSI Approved :: ISC License", "ISC License"),
        ("License-File: COPYING", "see COPYING"),
        ("Summary: none", "not named"),
    ],
)
def test_the_licence_is_read_from_wherever_a_wheel_names_it(tmp_path: Path, header: str, licence: str) -> None:
    assert read_wheel(make_wheel(tmp_path, "tiny-top", header=header)).licence == licence


def test_the_glibc_that_is_needed_is_the_oldest_of_a_wheel_and_the_newest_of_all() -> None:
    files = ["a-1-py3-none-any.whl", "b-1-cp312-cp312-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl"]
    assert oldest_glibc(files) == "2.17"
    assert oldest_glibc([*files, "c-1-cp39-abi3-manylinux_2_31_x86_64.whl", "d-1-cp39-abi3-manylinux2014_x86_64.whl"]) == "2.31"
    assert oldest_glibc(files[:1]) == "2.5"


# --- verification ---


def test_a_bundle_is_verified_as_the_notebook_uses_it(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target(gpu_imports=["tiny_none", "tiny_low"], min_driver=1)
    write_lock(target, project, make_wheel(index, "tiny-low"))
    build(target, tmp_path / "out", project=project, say=lambda _: None)
    lines: list[str] = []
    assert verify(tmp_path / "out" / "here", target, python=sys.executable, say=lines.append) == 0, lines
    said = "\n".join(lines)
    assert "ok: 2 wheels have the sizes and hashes of manifest and lock" in said
    assert "ok: every requirement of every wheel is met" in said
    assert "ok: install.py put 2 packages into a fresh environment" in said
    assert "ok: pip check has nothing to say" in said
    assert "ok: import mine" in said
    assert "not verified here: import tiny_none: ModuleNotFoundError: No module named 'tiny_none' (no NVIDIA driver)" in said
    assert "not verified here: what tiny_low does on a GPU (no NVIDIA driver)" in said
    # and by hand, where there is no other package
    assert run_installer(tmp_path / "out", prefix=tmp_path / "prefix", options=("--no-driver-check",))[1]["installed"] == [
        "mine==0.3",
        "tiny-low==1.0",
    ]


def test_what_is_wrong_with_a_bundle_is_found_before_it_is_installed(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target()
    write_lock(target, project, make_wheel(index, "tiny-low"))
    folder = build(target, tmp_path / "out", project=project, say=lambda _: None).folder
    wheel = folder / "wheels" / "tiny_low-1.0-py3-none-any.whl"
    data = wheel.read_bytes()
    faults = {
        "has 10 bytes and not": lambda: wheel.write_bytes(data[:10]),
        "stray.whl is not in the manifest": lambda: (folder / "wheels" / "stray.whl").write_bytes(b""),
        "install.py in the bundle is not the one": lambda: (folder / "install.py").write_text(""),
        "was built from another lock": lambda: target.lock.write_text(target.lock.read_text() + "# more\n"),
    }
    for fault in faults.values():
        fault()
    lines: list[str] = []
    assert verify(folder, target, say=lines.append) == 1
    for said in faults:
        assert any("FAILED" in line and said in line for line in lines), (said, lines)
    assert not any("fresh environment" in line for line in lines)
    with pytest.raises(WheelError, match="build here"):
        verify(tmp_path / "nowhere", target)


def test_requirements_that_the_wheels_do_not_meet_are_found_in_what_they_say(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target()
    write_lock(
        target, project, make_wheel(index, "tiny-low", "1.0", requires=("tiny-top>=2",)), make_wheel(index, "tiny-top", "1.0")
    )
    folder = build(target, tmp_path / "out", project=project, say=lambda _: None).folder
    lines: list[str] = []
    assert verify(folder, target, say=lines.append) == 1
    assert "here: FAILED: tiny-low needs tiny-top>=2, and 1.0 is locked" in lines


def test_a_python_that_is_not_here_is_not_verified_and_said(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target(python="3.99")
    write_lock(target, project, make_wheel(index, "tiny-low"))
    build(target, tmp_path / "out", project=project, say=lambda _: None)
    lines: list[str] = []
    assert verify(tmp_path / "out" / "here", target, say=lines.append) == 0
    assert lines[-1] == "here: not verified here: installation and imports: no Python 3.99 was found; give --python PATH"
    with pytest.raises(WheelError, match=r"not a Python 3\.99"):
        find_python("3.99", sys.executable)
    assert find_python(HERE) == sys.executable


def test_the_manifest_is_for_people_too(index: Path, project: Path, tmp_path: Path) -> None:
    target = make_target()
    write_lock(target, project, make_wheel(index, "tiny-low"))
    manifest = json.loads(
        (build(target, tmp_path / "out", project=project, say=lambda _: None).folder / "manifest.json").read_text()
    )
    for package in manifest["packages"].values():
        assert {"version", "licence", "wheel"} <= package.keys()
        assert {"file", "sha256", "size", "unpacked"} == package["wheel"].keys()
