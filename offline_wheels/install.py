"""Installs a bundle of wheels on a machine without a package index. One file, standard library alone, Python 3.8 or newer.

    python install.py --wheels DIR [--wheels DIR2] --prefix FOLDER --seconds N --json

DIR is a bundle that `python -m offline_wheels build` made (it holds manifest.json), or a folder of bundles. They are tried in the
order in which they are given, those of one folder by their rank, until one can be used.

Only what the machine lacks is installed. It goes into a new folder below FOLDER, which gets its final name when everything in it
is complete and can be imported. That name is printed: put it into PYTHONPATH. The machine's own packages are never changed.

Exit codes: 0 done, also if nothing was missing; 1 failed (the installation broke, or the time was over); 2 refused (the wheels do
not fit this machine, or are damaged). With --json the last line on stdout is an object: `ok`, `target`, `path` (null: nothing was
missing), `installed`, `seconds`, `error` (one line or null), `warnings`, and `passed_over` (why earlier bundles were not used).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

FORMAT = 1  # of manifest.json
MIB = 2**20
SPARE_BYTES = 512 * MIB  # of free disk beyond what the wheels unpack to
SHARE = 0.75  # of the time left that a bundle may use if another one follows it
IMPORT_SCRIPT = """
import importlib, sys
for entry in sys.argv[1:]:
    module, _, attribute = entry.partition(":")
    try:
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
    except BaseException as error:
        lines = str(error).strip().splitlines() or [""]
        print("import " + entry + ": " + type(error).__name__ + ": " + lines[0], file=sys.stderr)
        sys.exit(1)
"""


class Refused(Exception):
    """The wheels cannot be used on this machine; the message is one line with the remedy. Exit code 2."""


class Failed(Exception):
    """The installation broke or the time was over; the message is one line. Exit code 1."""


# --- versions (PEP 440) and requirements, as far as wheels write them ---

VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?:-(?P<post_bare>\d+)|[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d*))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?$"
)
CLAUSE = re.compile(r"\s*(~=|===|==|!=|<=|>=|<|>)\s*(\S+?)\s*$")
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^();]*)\)?\s*$")


class Version(NamedTuple):
    """A version in the order of PEP 440; the local label takes part in no comparison here."""

    epoch: int
    release: tuple[int, ...]  # without zeros at its end
    pre: tuple[int, int]  # (-1, 0): a development release of none; (9, 0): not a pre-release
    post: int  # -1: none
    dev: float  # infinity: none


def parse_version(text: str) -> tuple[Version, str]:
    """A version and its local label ("" if none). ValueError if it is none of PEP 440."""
    match = VERSION.match(text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is not a version")
    part = match.groupdict()
    release = [int(number) for number in part["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    dev = float(part["dev_number"] or 0) if part["dev"] else float("inf")
    post = int(part["post_bare"] or part["post_number"] or 0) if part["post"] or part["post_bare"] else -1
    if part["pre"]:
        pre = ({"a": 0, "b": 1}.get(part["pre"][0], 2), int(part["pre_number"] or 0))
    else:
        pre = (-1, 0) if part["dev"] and post < 0 else (9, 0)
    local = re.sub("[-_]", ".", part["local"] or "")
    return Version(int(part["epoch"] or 0), tuple(release), pre, post, dev), local


def accepts(specifier: str, version: str) -> bool:
    """Whether an installed version, pre-releases included, satisfies a specifier like ">=2,!=2.1.*"; if unreadable, False."""
    try:
        return all(_clause_accepts(clause, version) for clause in specifier.split(",") if clause.strip())
    except ValueError:
        return False


def _clause_accepts(clause: str, text: str) -> bool:
    match = CLAUSE.match(clause)
    if not match:
        raise ValueError(f"{clause!r} is not a version clause")
    operator, wanted_text = match.groups()
    if operator == "===":
        return text.strip().lower() == wanted_text.lower()
    version, local = parse_version(text)
    if wanted_text.endswith(".*"):
        if operator not in ("==", "!="):
            raise ValueError(f"{clause!r} is not a version clause")
        return _has_prefix(version, wanted_text[:-2]) == (operator == "==")
    wanted, wanted_local = parse_version(wanted_text)
    if operator in ("==", "!="):
        same = version == wanted and (not wanted_local or local == wanted_local)
        return same == (operator == "==")
    if operator == "~=":
        return version >= wanted and _has_prefix(version, _release_of(wanted_text).rpartition(".")[0])
    if operator == ">=":
        return version >= wanted
    if operator == "<=":
        return version <= wanted
    if operator == ">":  # no post-release of the version itself
        is_own = version[:3] == wanted[:3] and version.post >= 0 and wanted.post < 0 and wanted.dev == float("inf")
        return version > wanted and not is_own
    if wanted.pre == (9, 0) and wanted.dev == float("inf"):  # a final version: none of its own pre-releases either
        wanted = wanted._replace(dev=0.0, pre=(-1, 0) if wanted.post < 0 else wanted.pre)
    return version < wanted


def _release_of(text: str) -> str:
    match = VERSION.match(text.strip().lower())
    assert match
    return (match.group("epoch") or "0") + "!" + match.group("release")


def _has_prefix(version: Version, prefix: str) -> bool:
    wanted, _ = parse_version(prefix)
    length = len(_release_of(prefix).split("!")[1].split("."))
    padded = version.release + (0,) * length
    wanted_release = wanted.release + (0,) * (length - len(wanted.release))
    return version.epoch == wanted.epoch and padded[:length] == wanted_release


def normal(name: str) -> str:
    """The name of a distribution in the one form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_requirement(text: str) -> tuple[str, list[str], str]:
    """Name, extras and specifier of a requirement without a marker."""
    match = REQUIREMENT.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a requirement")
    name, extras, specifier = match.groups()
    return normal(name), [normal(extra.strip()) for extra in (extras or "").split(",") if extra.strip()], specifier.strip()


# --- what to install ---


class Plan(NamedTuple):
    """What a machine needs of a bundle."""

    chosen: list[str]  # names of packages to install, sorted
    unmet: dict[str, str]  # name of a package that neither the machine nor the bundle has as needed -> one line that says so


def plan(manifest: Mapping[str, Any], installed: Mapping[str, str]) -> Plan:
    """Which packages of a manifest a machine with these installed versions needs.

    A package stays as it is, with all that it needs itself, if the version here suits everything that is to be installed.
    Packages in the manifest's `always` are taken from the bundle whatever is installed.
    """
    packages = manifest["packages"]
    specifiers: dict[str, list[str]] = {}
    chosen: set[str] = set()
    unmet: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()  # package, and "" or one of its extras
    queue = [(requirement, "the target") for requirement in manifest["requirements"]]
    while queue:
        requirement, requirer = queue.pop(0)
        name, extras, specifier = parse_requirement(requirement)
        specifiers.setdefault(name, []).append(specifier)
        version = installed.get(name)
        in_bundle = name in packages and packages[name]["wheel"] is not None
        stays = version is not None and name not in chosen and name not in manifest["always"]
        stays = stays and all(accepts(each, str(version)) for each in specifiers[name])
        stays = stays and (in_bundle or not extras)  # what extras need is known from the wheel alone
        if not stays and not in_bundle:
            here = f"this machine has {version}" if version else "this machine has none"
            unmet.setdefault(name, f"{requirer} needs {requirement}, {here}, and the bundle holds none")
            continue
        if not stays:
            chosen.add(name)
        for group in extras if stays else ["", *extras]:
            if (name, group) not in seen:
                seen.add((name, group))
                queue += [(each, name) for each in packages[name]["requires"].get(group, [])]
    return Plan(sorted(chosen), unmet)


def installed_packages(without: Path) -> tuple[dict[str, str], list[tuple[str, list[str]]]]:
    """Versions by name of what this Python can import, and what each requires; nothing from below the folder `without`."""
    versions: dict[str, str] = {}
    requires: list[tuple[str, list[str]]] = []
    for distribution in metadata.distributions():
        try:
            name, version = normal(distribution.metadata["Name"]), distribution.version
            inside = without in Path(str(distribution.locate_file("."))).resolve().parents
            needs = list(distribution.requires or [])
        except Exception:  # metadata of any shape may lie on a machine; such a package counts as not there
            continue
        if not inside and version and name not in versions:
            versions[name] = version
            requires.append((name, needs))
    return versions, requires


def conflicts(requires: Iterable[tuple[str, list[str]]], chosen: Mapping[str, str]) -> list[tuple[str, str]]:
    """Installed packages that the chosen versions do not suit, and one line on why; requirements of extras are left out."""
    found = []
    for name, needs in requires:
        if name in chosen:
            continue
        for text in needs:
            bare, _, marker = text.partition(";")
            try:
                needed, _, specifier = parse_requirement(bare)
            except ValueError:
                continue
            if needed in chosen and "extra" not in marker and not accepts(specifier, chosen[needed]):
                found.append((name, f"{name} of this machine asks for {needed}{specifier} and will see {chosen[needed]}"))
    return found


def plan_without_conflicts(
    manifest: Mapping[str, Any], installed: Mapping[str, str], requires: list[tuple[str, list[str]]]
) -> tuple[list[str], dict[str, str], list[str]]:
    """A plan in which packages that stay suit the new ones: those that do not are taken from the bundle if it holds them.

    Returns `chosen` and `unmet` as `plan` does, and a line on each conflict that is left.
    """
    packages = manifest["packages"]
    forced: set[str] = set()
    while True:
        chosen, unmet = plan({**manifest, "always": [*manifest["always"], *forced]}, installed)
        found = conflicts(requires, {name: packages[name]["version"] for name in chosen})
        more = {name for name, _ in found if packages.get(name, {}).get("wheel")} - forced
        if not more:
            return chosen, unmet, [line for _, line in found]
        forced |= more


# --- bundles and the machine ---


class Bundle(NamedTuple):
    """A folder with wheels, and what its manifest.json says."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the target that it was built for."""
        return str(self.manifest["target"])

    def wheel(self, package: str) -> tuple[Path, dict[str, Any]]:
        """Where the wheel of a package lies, and its entry in the manifest."""
        entry = self.manifest["packages"][package]["wheel"]
        return self.folder / "wheels" / entry["file"], entry


def find_bundles(folders: Iterable[Path]) -> tuple[list[Bundle], list[str]]:
    """The bundles in these folders and at most two levels below, and a line on each that cannot be read or if there is none."""
    found: list[Bundle] = []
    problems: list[str] = []
    for folder in folders:
        read = []
        for path in [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(depth + "manifest.json"))]:
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                problems.append(f"{path}: cannot be read ({_first_line(error)}); upload the bundle again")
                continue
            if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
                read.append(Bundle(path.parent, manifest))
            else:
                problems.append(f"{path}: not a manifest of format {FORMAT}; use the install.py that lies beside it")
        found += sorted(read, key=lambda bundle: bundle.manifest["rank"])
    if not found and not problems:
        names = ", ".join(str(folder) for folder in folders)
        problems.append(f"no manifest.json in {names}; attach the data set with the wheels")
    return found, problems


def driver_version() -> str:
    """Version of the NVIDIA driver; empty without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    version = output.decode(errors="replace").strip().split("\n")[0].strip()
    return version if version[:1].isdigit() else ""


def check_machine(manifest: Mapping[str, Any], driver: str | None) -> None:
    """Refused if the wheels are for another Python, processor, C library or driver. `driver` None: that is not looked at."""
    target, python = manifest["target"], ".".join(str(part) for part in sys.version_info[:2])
    if (platform.python_implementation(), python) != ("CPython", manifest["python"]):
        raise Refused(
            f"{target}: its wheels are for CPython {manifest['python']}, this is {platform.python_implementation()} {python}; "
            f"attach a bundle for this Python, or pin the notebook's image to one with Python {manifest['python']}"
        )
    if platform.machine() != manifest["machine"] or platform.system() != "Linux":
        raise Refused(
            f"{target}: its wheels are for Linux on {manifest['machine']}, this is {platform.system()} on {platform.machine()}"
        )
    library, version = platform.libc_ver()
    if library != "glibc" or not accepts(">=" + manifest["glibc"], version):
        raise Refused(
            f"{target}: its wheels need glibc {manifest['glibc']} or newer, this machine has {library or 'another C library'} "
            f"{version}; use a newer image, or build the bundle for an older glibc"
        )
    if driver is None or not manifest["min_driver"]:
        return
    if not driver:
        raise Refused(
            f"{target}: needs an NVIDIA driver, and nvidia-smi names none; switch the accelerator on, or attach the bundle cpu"
        )
    if int(driver.split(".")[0]) < manifest["min_driver"]:
        raise Refused(
            f"{target}: needs NVIDIA driver {manifest['min_driver']} or newer, this machine has {driver}; "
            "attach a bundle for an older CUDA, or the bundle cpu"
        )


def check_disk(target: str, folder: Path, needed: int) -> None:
    """Refused if there is not room for so many bytes and the spare ones where the folder lies."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise Refused(
            f"{target}: needs {(needed + SPARE_BYTES) // MIB} MiB of free disk in {folder}, and there are {free // MIB}; "
            "give another --prefix, or free some"
        )


def check_wheels(bundle: Bundle, packages: Iterable[str], deadline: float) -> None:
    """Refused if a wheel is not there, is cut off or is not the one that was built; Failed at the deadline."""
    for package in packages:
        path, entry = bundle.wheel(package)
        try:
            size = path.stat().st_size
            if size != entry["size"]:
                raise Refused(f"{bundle.name}: {path.name} has {size} bytes and not {entry['size']}; upload the bundle again")
            digest = hashlib.sha256()
            with path.open("rb") as file:
                for block in iter(lambda: file.read(MIB), b""):
                    digest.update(block)
                    if time.monotonic() > deadline:
                        raise Failed(f"{bundle.name}: the time was over when {path.name} was checked; give more --seconds")
        except OSError as error:
            raise Refused(f"{bundle.name}: {path.name} cannot be read ({error.strerror}); upload the bundle again") from error
        if digest.hexdigest() != entry["sha256"]:
            raise Refused(f"{bundle.name}: {path.name} is not the wheel that was built (wrong sha256); upload the bundle again")


# --- installation ---


def run_child(command: list[str], env: Mapping[str, str], folder: Path, deadline: float) -> tuple[int, str]:
    """Exit code and output of a child. It and its children are killed at the deadline (TimeoutError) and with this process."""
    child = subprocess.Popen(
        command,
        env=dict(env),
        cwd=str(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        output, _ = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=10)
    return child.returncode, output.decode(errors="replace")


def installers(bundle: Bundle, staging: Path) -> list[list[str]]:
    """The commands that install the requirements file into the staging folder, the fastest first."""
    common = ["--no-index", "--find-links", str(bundle.folder.resolve() / "wheels"), "--no-deps", "--require-hashes"]
    common += ["--only-binary", ":all:", "--target", str(staging / "packages"), "-r", str(staging / "requirements.txt")]
    found = []
    uv = shutil.which("uv")
    if uv:
        found.append([uv, "pip", "install", "--quiet", "--offline", "--no-config", "--python", sys.executable, *common])
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "--no-input",
        "install",
        "--quiet",
        "--no-compile",
    ]
    found.append([*pip, "--no-cache-dir", "--no-warn-script-location", *common])
    return found


def child_env(staging: Path) -> dict[str, str]:
    """The environment of children: without this machine's settings of pip and uv, with temporary files in the staging folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    env.update(
        PIP_CONFIG_FILE=os.devnull,
        TMPDIR=str(staging / "tmp"),
        UV_CACHE_DIR=str(staging / "cache"),
        PIP_ROOT_USER_ACTION="ignore",
    )
    return env


def unpack(bundle: Bundle, packages: list[str], staging: Path, deadline: float) -> None:
    """Installs the packages into staging/packages. Failed if no installer can, or at the deadline."""
    lines = []
    for package in packages:
        entry = bundle.manifest["packages"][package]
        lines.append(f"{package}=={entry['version']} --hash=sha256:{entry['wheel']['sha256']}\n")
    (staging / "tmp").mkdir()
    (staging / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    reasons = []
    for command in installers(bundle, staging):
        shutil.rmtree(staging / "packages", ignore_errors=True)
        name = "pip" if command[0] == sys.executable else "uv"
        try:
            code, output = run_child(command, child_env(staging), staging, deadline)
        except TimeoutError as error:
            raise Failed(f"{bundle.name}: {name} was stopped because the time was over; give more --seconds") from error
        except OSError as error:
            code, output = 1, _first_line(error)
        if code == 0:
            return
        reasons.append(f"{name}: {telling_line(output) or f'exit code {code}'}")
    raise Failed(f"{bundle.name}: cannot be installed ({'; '.join(reasons)})")


def try_imports(entries: list[str], staging: Path, deadline: float) -> str:
    """Imports "module" or "module:attribute" as a program with the staged folder in PYTHONPATH does; why that failed, or ""."""
    env = child_env(staging)
    env["PYTHONPATH"] = os.pathsep.join(part for part in (str(staging / "packages"), os.environ.get("PYTHONPATH", "")) if part)
    try:
        code, output = run_child([sys.executable, "-c", IMPORT_SCRIPT, *entries], env, staging, deadline)
    except TimeoutError:
        return f"import {entries[0]}: not done when the time was over"
    if code == 0:
        return ""
    said = [line for line in output.splitlines() if line.startswith("import ")]
    return said[-1] if said else f"import {', '.join(entries)}: exit code {code}: {telling_line(output)}"


def install_bundle(
    bundle: Bundle, prefix: Path, deadline: float, check_driver: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Installs what a bundle has and this machine lacks; returns what to report on it. Refused, Failed."""
    driver = driver_version() if check_driver else None
    check_machine(bundle.manifest, driver)
    versions, requires = installed_packages(prefix)
    chosen, unmet, warnings = plan_without_conflicts(bundle.manifest, versions, requires)
    if unmet:
        raise Refused(
            f"{bundle.name}: {next(iter(unmet.values()))}; build the bundle with --full, or for the image that this machine has"
        )
    report: dict[str, Any] = {"target": bundle.name, "path": None, "installed": [], "warnings": warnings}
    if not chosen:
        say(f"{bundle.name}: nothing is missing")
        return report
    new = {package: str(bundle.manifest["packages"][package]["version"]) for package in chosen}
    report["installed"] = [f"{package}=={version}" for package, version in new.items()]
    wheels = [bundle.wheel(package)[1] for package in chosen]
    key = hashlib.sha256("".join(sorted(wheel["sha256"] for wheel in wheels)).encode()).hexdigest()[:12]
    final = prefix / f"{bundle.name}-{key}"
    report["path"] = str(final)
    if final.is_dir():
        say(f"{bundle.name}: {final} is complete already")
        return report
    replaced = [
        f"{package} {versions[package]} by {version}"
        for package, version in new.items()
        if versions.get(package, version) != version
    ]
    say(
        f"{bundle.name}: installs {len(chosen)} packages"
        + (f"; in PYTHONPATH they hide {', '.join(replaced)}" if replaced else "")
    )
    try:
        prefix.mkdir(parents=True, exist_ok=True)
        for left in prefix.glob(".partial-*"):  # by processes that were killed
            if not Path("/proc", left.name.partition("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
        check_disk(bundle.name, prefix, sum(wheel["unpacked"] for wheel in wheels))
        check_wheels(bundle, chosen, deadline)
        staging = prefix / f".partial-{os.getpid()}"
        try:
            staging.mkdir()
            unpack(bundle, chosen, staging, deadline)
            reason = try_imports(bundle.manifest["imports"], staging, deadline) if bundle.manifest["imports"] else ""
            if reason:
                raise Failed(f"{bundle.name}: {reason}")
            for module in bundle.manifest["gpu_imports"] if driver else []:
                reason = try_imports([module], staging, deadline)
                if reason:
                    report["warnings"].append(reason)
            if not final.is_dir():
                (staging / "packages").rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise Refused(
            f"{bundle.name}: {error.filename or prefix}: {error.strerror}; give a --prefix that can be written to"
        ) from error
    return report


def install(
    folders: Iterable[Path],
    prefix: Path,
    seconds: float,
    *,
    check_driver: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[int, dict[str, Any]]:
    """Installs from the first bundle that fits: exit code and the object that --json prints.

    `seconds` is the time for everything. A bundle that others follow gets three quarters of what is left, so that they have some.
    """
    start = time.monotonic()
    result: dict[str, Any] = {"ok": False, "target": None, "path": None, "installed": [], "warnings": []}
    code = 2
    bundles, passed_over = find_bundles(list(folders))
    for index, bundle in enumerate(bundles):
        left = start + seconds - time.monotonic()
        share = SHARE if index + 1 < len(bundles) else 1.0
        try:
            result.update(install_bundle(bundle, prefix.resolve(), time.monotonic() + left * share, check_driver, say), ok=True)
            code = 0
            break
        except Refused as refusal:
            passed_over.append(str(refusal))
        except Failed as failure:
            code = 1
            passed_over.append(str(failure))
        except Exception as error:  # a manifest of another shape, a machine of a kind never seen: the next bundle may still do
            code = 1
            passed_over.append(f"{bundle.folder}: {type(error).__name__}: {_first_line(error)}; upload the bundle again")
        say(passed_over[-1])
    result.update(seconds=round(time.monotonic() - start, 2), passed_over=passed_over)
    result["error"] = None if result["ok"] else " | ".join(passed_over)
    return code, result


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def telling_line(output: str) -> str:
    """The line of an installer's output that says best what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or [""])[-1][:300]


def _die_with_parent() -> None:
    """In a child: asks Linux to kill it when this process is killed, which can then do nothing about it itself."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _stopped(signum: int, _: object) -> NoReturn:
    raise SystemExit(128 + signum)


def main(arguments: list[str] | None = None) -> int:
    """The command line: its exit code."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Exit codes: 0 done, 1 failed, 2 refused.")
    parser.add_argument(
        "--wheels", action="append", required=True, type=Path, metavar="DIR", help="a bundle, or a folder of bundles"
    )
    parser.add_argument("--prefix", required=True, type=Path, metavar="FOLDER", help="where the folder for PYTHONPATH is made")
    parser.add_argument("--seconds", type=float, default=900.0, metavar="N", help="time for everything (default 900)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line on stdout")
    parser.add_argument(
        "--no-driver-check", action="store_true", help="install wheels for CUDA where there is no GPU, to look at them"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stopped)
    code, result = install(
        options.wheels,
        options.prefix,
        options.seconds,
        check_driver=not options.no_driver_check,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if options.json:
        print(json.dumps(result), flush=True)
    else:
        print(result["path"] or result["error"] or "nothing is missing", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
