"""install.py as a notebook calls it: real wheels, real pip, real faults."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_wheels import BASE, INSTALLER, WITH_UV, make_bundle, make_image, make_wheel, program, run_installer


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "prefix"


def left_in(prefix: Path) -> list[str]:
    return sorted(path.name for path in prefix.iterdir()) if prefix.exists() else []


def value(path: str, expression: str) -> str:
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", f"print({expression})"], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_what_is_missing_is_installed_into_one_folder_and_found_complete_the_next_time(
    tmp_path: Path, wheels: Path, prefix: Path, installer: str
) -> None:
    path = BASE if installer == "pip" else WITH_UV
    if installer == "uv" and path == BASE:
        pytest.skip("uv is not installed")
    top, low = make_wheel(wheels, "tiny-top", requires=("tiny-low>=1",)), make_wheel(wheels, "tiny-low", "1.5")
    bundle = make_bundle(tmp_path / "kaggle", {top: ("tiny-low>=1",), low: ()}, imports=["tiny_top:version"])
    code, report = run_installer(bundle, prefix=prefix, path=path)
    assert (code, report["ok"], report["target"], report["error"]) == (0, True, "kaggle", None)
    assert report["installed"] == ["tiny-low==1.5", "tiny-top==1.0"]
    assert left_in(prefix) == [Path(report["path"]).name]
    assert value(report["path"], "__import__('tiny_low').version") == "1.5"
    # the folder of an earlier call is in PYTHONPATH: what lies in it does not count as the machine's own
    again = run_installer(bundle, prefix=prefix, image=Path(report["path"]))
    assert again == (0, {**report, "seconds": again[1]["seconds"]})


def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    wheel = make_wheel(wheels, "tiny-top", "1.0")
    bundle = make_bundle(tmp_path / "kaggle", {wheel: ()}, requirements=["tiny-top>=1"])
    code, report = run_installer(
        bundle, prefix=prefix, image=make_image(tmp_path / "image", make_wheel(wheels, "tiny-top", "1.4+local"))
    )
    assert (code, report["ok"], report["path"], report["installed"], left_in(prefix)) == (0, True, None, [], [])


def test_the_machines_own_version_stays_if_it_suits_and_is_hidden_if_not(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    needs = ("tiny-fine>=1,<3", "tiny-old!=5.0.*")
    bundle = make_bundle(
        tmp_path / "kaggle",
        {
            make_wheel(wheels, "tiny-top"): needs,
            make_wheel(wheels, "tiny-fine", "2.9"): (),
            make_wheel(wheels, "tiny-old", "5.2"): (),
        },
    )
    image = make_image(tmp_path / "image", make_wheel(wheels, "tiny-fine", "2.0"), make_wheel(wheels, "tiny-old", "5.0.1"))
    code, report = run_installer(bundle, prefix=prefix, image=image)
    assert (code, report["installed"]) == (0, ["tiny-old==5.2", "tiny-top==1.0"])
    assert value(f"{report['path']}:{image}", "__import__('tiny_old').version, __import__('tiny_fine').version") == "5.2 2.0"


def test_a_package_of_the_machine_that_new_versions_would_break_is_replaced_too_or_named(
    tmp_path: Path, wheels: Path, prefix: Path
) -> None:
    top, low, pair = make_wheel(wheels, "tiny-top"), make_wheel(wheels, "tiny-low", "2.0"), make_wheel(wheels, "tiny-pair", "2.0")
    bundle = make_bundle(tmp_path / "kaggle", {top: ("tiny-low>=2", "tiny-pair"), low: (), pair: ("tiny-low>=2",)})
    image = make_image(
        tmp_path / "image",
        make_wheel(wheels, "tiny-low", "1.0"),
        make_wheel(wheels, "tiny-pair", "1.0", requires=("tiny-low<2",)),
        make_wheel(wheels, "tiny-other", requires=("tiny-low<2",)),
    )
    code, report = run_installer(bundle, prefix=prefix, image=image)
    assert (code, report["installed"]) == (0, ["tiny-low==2.0", "tiny-pair==2.0", "tiny-top==1.0"])
    assert report["warnings"] == ["tiny-other of this machine asks for tiny-low<2 and will see 2.0"]


@pytest.mark.parametrize("fault", ["truncated", "changed", "missing"])
def test_a_damaged_wheel_is_refused_by_name(tmp_path: Path, wheels: Path, prefix: Path, fault: str) -> None:
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ("tiny-low",), make_wheel(wheels, "tiny-low"): ()})
    path = bundle / "wheels" / "tiny_low-1.0-py3-none-any.whl"
    data = path.read_bytes()
    path.unlink()
    if fault != "missing":
        path.write_bytes(data[:-20] if fault == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    code, report = run_installer(bundle, prefix=prefix)
    assert (code, report["ok"], report["path"], left_in(prefix)) == (2, False, None, [])
    assert path.name in report["error"]
    assert report["error"].endswith("upload the bundle again")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"python": "3.6"}, "wheels are for CPython 3.6, this is"),
        ({"machine": "riscv64"}, "wheels are for Linux on riscv64"),
        ({"glibc": "2.999"}, "need glibc 2.999 or newer"),
        ({"requirements": ["tiny-top", "tiny-none==3"]}, "needs tiny-none==3, this machine has none, and the bundle holds none"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, wheels: Path, prefix: Path, changes: dict[str, object], said: str
) -> None:
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()}, **changes)
    code, report = run_installer(bundle, prefix=prefix)
    assert (code, report["ok"], left_in(prefix)) == (2, False, [])
    assert said in report["error"]
    assert ";" in report["error"] or "machine" in changes
    assert "\n" not in report["error"]


@pytest.mark.parametrize(
    ("nvidia_smi", "options", "code", "said"),
    [
        ("echo 580.65.06", (), 0, ""),
        ("echo 470.82.01", (), 2, "needs NVIDIA driver 525 or newer, this machine has 470.82.01"),
        ("echo failed; exit 9", (), 2, "needs an NVIDIA driver, and nvidia-smi names none"),
        ("exit 9", ("--no-driver-check",), 0, ""),
    ],
)
def test_the_driver_is_looked_at(
    tmp_path: Path, wheels: Path, prefix: Path, nvidia_smi: str, options: tuple[str, ...], code: int, said: str
) -> None:
    programs = program(tmp_path / "bin", "nvidia-smi", nvidia_smi).parent
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()}, min_driver=525)
    found, report = run_installer(bundle, prefix=prefix, path=f"{programs}:{WITH_UV}", options=options)
    assert (found, report["ok"]) == (code, code == 0)
    assert said in (report["error"] or "")


def test_too_little_free_disk_is_refused_before_anything_is_written(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["packages"]["tiny-top"]["wheel"]["unpacked"] = 2**60
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    code, report = run_installer(bundle, prefix=prefix)
    assert (code, left_in(prefix)) == (2, [])
    assert "MiB of free disk" in report["error"]
    assert "--prefix" in report["error"]


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_behind(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top", payload=2**21): ()})

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    code, report = run_installer(bundle, prefix=prefix, path=BASE, preexec_fn=limit)
    assert (code, report["ok"], left_in(prefix)) == (1, False, [])
    assert "pip" in report["error"]
    assert "File too large" in report["error"]


def test_a_prefix_that_cannot_be_made_is_refused(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "file").write_text("")
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    code, report = run_installer(bundle, prefix=tmp_path / "file" / "prefix")
    assert code == 2
    assert str(tmp_path / "file") in report["error"]


def test_an_installer_that_hangs_is_killed_with_its_children_at_the_deadline(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    mark = tmp_path / "pid"
    programs = program(tmp_path / "bin", "uv", f"sleep 100 & echo $! > {mark}; wait").parent
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    start = time.monotonic()
    code, report = run_installer(bundle, prefix=prefix, seconds=2, path=f"{programs}:{BASE}")
    assert time.monotonic() - start < 10
    assert (code, report["ok"], left_in(prefix)) == (1, False, [])
    assert "uv was stopped because the time was over" in report["error"]
    assert gone(int(mark.read_text()))


def test_an_installer_that_fails_is_followed_by_the_next_one(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    programs = program(tmp_path / "bin", "uv", "echo 'error: no such option'; exit 2").parent
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    code, report = run_installer(bundle, prefix=prefix, path=f"{programs}:{BASE}")
    assert (code, report["installed"]) == (0, ["tiny-top==1.0"])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_installer_dies_with_the_process_that_started_it(
    tmp_path: Path, wheels: Path, prefix: Path, signum: signal.Signals
) -> None:
    mark = tmp_path / "pid"
    programs = program(tmp_path / "bin", "uv", f"echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 100").parent
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    command = [sys.executable, str(INSTALLER), "--wheels", str(bundle), "--prefix", str(prefix)]
    with subprocess.Popen(command, env={**os.environ, "PATH": f"{programs}:{BASE}"}, stderr=subprocess.DEVNULL) as process:
        wait_until(mark.exists)
        process.send_signal(signum)
        process.wait(10)
    wait_until(lambda: gone(int(mark.read_text())))
    assert left_in(prefix) == ([] if signum == signal.SIGTERM else [f".partial-{process.pid}"])
    report = run_installer(bundle, prefix=prefix)[1]  # the next one clears up
    assert left_in(prefix) == [Path(report["path"]).name]


def test_a_module_that_cannot_be_imported_fails_the_bundle_and_leaves_nothing(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    broken = make_wheel(wheels, "tiny-broken", source="raise OSError('libcuda.so.1: cannot open')\n")
    bundle = make_bundle(tmp_path / "kaggle", {broken: ()}, imports=["json:loads", "tiny_broken"])
    code, report = run_installer(bundle, prefix=prefix)
    assert (code, report["ok"], left_in(prefix)) == (1, False, [])
    assert report["error"] == "kaggle: import tiny_broken: OSError: libcuda.so.1: cannot open"


def test_a_module_that_hangs_when_imported_costs_the_time_and_no_more(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    slow = make_wheel(wheels, "tiny-slow", source="import time\ntime.sleep(100)\n")
    bundle = make_bundle(tmp_path / "kaggle", {slow: ()}, imports=["tiny_slow"])
    start = time.monotonic()
    code, report = run_installer(bundle, prefix=prefix, seconds=6)
    assert time.monotonic() - start < 15
    assert (code, left_in(prefix)) == (1, [])
    assert "import tiny_slow: not done when the time was over" in report["error"]


def test_a_gpu_module_that_cannot_be_imported_is_a_warning(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    programs = program(tmp_path / "bin", "nvidia-smi", "echo 580.65.06").parent
    broken = make_wheel(wheels, "tiny-broken", source="raise ImportError('no kernels')\n")
    bundle = make_bundle(tmp_path / "kaggle", {broken: ()}, gpu_imports=["tiny_broken"])
    code, report = run_installer(bundle, prefix=prefix, path=f"{programs}:{BASE}")
    assert (code, report["warnings"]) == (0, ["import tiny_broken: ImportError: no kernels"])
    program(programs, "nvidia-smi", "exit 9")
    assert run_installer(bundle, prefix=tmp_path / "second", path=f"{programs}:{BASE}")[1]["warnings"] == []  # nobody tries it


def test_bundles_are_tried_in_the_order_given_and_by_rank_within_a_folder(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    wheel = make_wheel(wheels, "tiny-top")
    make_bundle(tmp_path / "set" / "a-last", {wheel: ()}, rank=90)
    make_bundle(tmp_path / "set" / "b-first", {wheel: ()}, rank=10, python="3.6")
    make_bundle(tmp_path / "set" / "c-second", {wheel: ()}, rank=20, imports=["no_such_module"])
    code, report = run_installer(tmp_path / "set", prefix=prefix)
    assert (code, report["target"], report["error"]) == (0, "a-last", None)
    assert [line.partition(":")[0] for line in report["passed_over"]] == ["b-first", "c-second"]
    other = make_bundle(tmp_path / "other", {wheel: ()}, rank=99)
    assert run_installer(other, tmp_path / "set", prefix=prefix)[1]["target"] == "other"


def test_if_no_bundle_can_be_used_every_reason_is_in_the_one_line(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    wheel = make_wheel(wheels, "tiny-top")
    old = make_bundle(tmp_path / "old", {wheel: ()}, python="3.6")
    code, report = run_installer(old, make_bundle(tmp_path / "new", {wheel: ()}, python="3.99"), prefix=prefix)
    assert (code, report["ok"], report["target"]) == (2, False, None)
    assert "old: its wheels are for CPython 3.6" in report["error"]
    assert "new: its wheels are for CPython 3.99" in report["error"]
    assert "\n" not in report["error"]
    broken = make_bundle(tmp_path / "broken", {wheel: ()}, imports=["no_such_module"])
    assert run_installer(old, broken, prefix=prefix)[0] == 1  # one of them failed


@pytest.mark.parametrize(("text", "said"), [(None, "attach the data set"), ("{", "upload the bundle again"), ("{}", "format 1")])
def test_a_folder_without_a_readable_manifest_is_refused(tmp_path: Path, prefix: Path, text: str | None, said: str) -> None:
    folder = tmp_path / "input"
    if text is not None:
        folder.mkdir()
        (folder / "manifest.json").write_text(text)
    code, report = run_installer(folder, prefix=prefix)
    assert (code, report["ok"]) == (2, False)
    assert str(folder) in report["error"]
    assert said in report["error"]


def test_a_bundle_that_cannot_be_read_does_not_keep_another_from_being_used(tmp_path: Path, wheels: Path, prefix: Path) -> None:
    for name, text in {"cut": '{"form', "other": json.dumps({"format": 1, "target": "other", "rank": 0})}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "manifest.json").write_text(text)
    make_bundle(tmp_path / "set" / "good", {make_wheel(wheels, "tiny-top"): ()})
    code, report = run_installer(tmp_path / "set", prefix=prefix)
    assert (code, report["target"], report["error"], len(report["passed_over"])) == (0, "good", None, 2)
    assert "other: KeyError" in report["passed_over"][1]


def test_settings_of_pip_and_uv_on_the_machine_do_not_count(
    tmp_path: Path, wheels: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constraints.txt").write_text("tiny-top==9\n")
    for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
        monkeypatch.setenv(name, str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    bundle = make_bundle(tmp_path / "kaggle", {make_wheel(wheels, "tiny-top"): ()})
    assert run_installer(bundle, prefix=prefix)[0] == 0


def test_the_installer_needs_no_site_packages_and_parses_in_python_3_8(tmp_path: Path) -> None:
    copy = tmp_path / "install.py"
    shutil.copyfile(INSTALLER, copy)
    done = subprocess.run([sys.executable, "-I", "-S", str(copy), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout
    import ast

    ast.parse(copy.read_text(encoding="utf-8"), feature_version=(3, 8))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
