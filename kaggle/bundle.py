"""Builds the folders that `kaggle datasets create` and `kaggle kernels push` upload: `make kaggle-bundle KAGGLE_USER=NAME`.

dist/kaggle/solver/    the data set with the solver's wheel, its base models included, and version.json
dist/kaggle/wheels/    with --target: the data set of the wheels that a target of offline_wheels needs beside the image
dist/kaggle/kernel/    the notebook and its metadata
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import solver
from solver.host import commit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where a script's own folder stands

from offline_wheels.wheel import build_own_wheel, sha256_of  # noqa: E402

FOLDER = ROOT / "kaggle"


def metadata(name: str, user: str, **changes: Any) -> dict[str, Any]:
    """A metadata file of this folder, for a user."""
    return json.loads((FOLDER / name).read_text().replace("USERNAME", user)) | changes


def write(path: Path, value: Any) -> None:
    """Write JSON for people."""
    path.write_text(json.dumps(value, indent=2) + "\n")


def build_solver(out: Path, user: str) -> None:
    """The data set of the solver."""
    wheel = build_own_wheel(out)
    version = {"version": solver.__version__, "commit": commit(), "wheel": wheel.name, "sha256": sha256_of(wheel)}
    write(out / "version.json", version)
    description = f"solver {version['version']}, commit {version['commit']}. Licence: MIT-0."
    write(out / "dataset-metadata.json", metadata("dataset-metadata.json", user, description=description))


def build_wheels(out: Path, user: str, target: str) -> None:
    """The data set of the wheels of a target."""
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        subprocess.run([sys.executable, "-m", "offline_wheels", "build", target, "--out", folder], check=True, cwd=ROOT)
        shutil.copytree(Path(folder) / target, out, dirs_exist_ok=True, copy_function=shutil.move)
    changes = {
        "id": f"{user}/arc-solver-wheels",
        "title": "arc solver wheels",
        "subtitle": "Wheels that the ARC-AGI solver needs beside Kaggle's image",
        "description": f"Target {target} of offline_wheels, commit {commit()}. manifest.json has the licence of every wheel.",
    }
    write(out / "dataset-metadata.json", metadata("dataset-metadata.json", user, **changes))


def build_kernel(out: Path, user: str, wheels: bool) -> None:
    """The notebook and its metadata."""
    shutil.copy(FOLDER / "submission.ipynb", out)
    kernel = metadata("kernel-metadata.json", user)
    if wheels:
        kernel["dataset_sources"].append(f"{user}/arc-solver-wheels")
    write(out / "kernel-metadata.json", kernel)


def sizes(out: Path) -> str:
    """The size of every file, and of every folder."""
    lines = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines += [f"{path.stat().st_size / 1e6:9.2f} MB  {path.relative_to(out)}" for path in files]
        lines.append(f"{sum(path.stat().st_size for path in files) / 1e6:9.2f} MB  {folder.name}/ in all")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist/kaggle", help="the folder for these folders; emptied")
    parser.add_argument("--user", default="USERNAME", help="your name on Kaggle")
    parser.add_argument("--target", default="", help="a target of offline_wheels; without one no wheels are built")
    options = parser.parse_args()
    out = options.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    for name in ("solver", "kernel", *(["wheels"] if options.target else [])):
        (out / name).mkdir(parents=True)
    build_solver(out / "solver", options.user)
    if options.target:
        build_wheels(out / "wheels", options.user, options.target)
    build_kernel(out / "kernel", options.user, bool(options.target))
    print(sizes(out))
    if options.user == "USERNAME":
        print("the metadata name USERNAME: give your name on Kaggle by KAGGLE_USER=NAME before you upload")


if __name__ == "__main__":
    main()
