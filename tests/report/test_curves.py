"""Pictures: drawn whatever backend the environment names, and never worth more than a line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from solver.report.curves import plot_curves, plot_held_out
from solver.report.scores import HeldOutRow

PNG = b"\x89PNG"
ROW = HeldOutRow("m", "id", 10, 1000, 0, 2, 10, 5, 100, 80, 12.0, "cpu", "", {}, "")


def metrics(folder: Path) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("\n".join(json.dumps({"tokens": 1000 * i, "loss": 2.0 / i, "lr": 1e-3}) for i in (1, 2, 3)) + '\n{"torn')
    return path


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "module://nowhere.at_all", "TkAgg", "nonsense"])
def test_the_backend_of_a_notebook_does_not_matter(tmp_path: Path, backend: str) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from solver.report.curves import plot_curves\n"
        "plot_curves(Path(sys.argv[1]), Path(sys.argv[2]), print)\n"
        "print(os.environ['MPLBACKEND'], 'matplotlib.pyplot' in sys.modules)\n"
    )
    picture = tmp_path / "metrics.png"
    result = subprocess.run(
        [sys.executable, "-c", code, str(metrics(tmp_path)), str(picture)],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLBACKEND": backend},
    )
    assert (result.returncode, result.stdout) == (0, f"{backend} False\n"), result.stderr
    assert picture.read_bytes().startswith(PNG)


def test_a_picture_that_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    plot_curves(tmp_path / "absent.jsonl", tmp_path / "metrics.png", lines.append)
    plot_held_out([ROW], tmp_path / "nowhere" / "held_out.png", lines.append)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plot_held_out([ROW], tmp_path / "held_out.png", lines.append)
    assert [line.split(": ")[:2] for line in lines] == [
        [str(tmp_path / name), "cannot be drawn"] for name in ("metrics.png", "nowhere/held_out.png", "held_out.png")
    ]
    assert not any("\n" in line for line in lines)
    monkeypatch.undo()
    plot_held_out([ROW], tmp_path / "held_out.png", lines.append)
    assert (tmp_path / "held_out.png").read_bytes().startswith(PNG)
    assert len(lines) == 3
