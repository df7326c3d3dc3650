"""The notebook with the installer that goes into data sets of wheels, on small bundles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from kaggle_machine import Machine
from rehearse import WHEELS

sys.path.insert(0, str(Path(__file__).parents[1] / "offline_wheels"))
tiny_wheels = pytest.importorskip("tiny_wheels")


@pytest.mark.parametrize("fault", ["none", "wrong Python", "truncated wheel", "wrong hash"])
def test_wheels_are_installed_or_refused_with_a_reason(machine: Machine, tmp_path: Path, fault: str) -> None:
    wheel = tiny_wheels.make_wheel(tmp_path / "made", "solver-test-extra", payload=1000)
    changes = {"python": "3.8"} if fault == "wrong Python" else {}
    made = tiny_wheels.make_bundle(tmp_path / "bundle", {wheel: ()}, **changes)
    if fault == "truncated wheel":
        packed = made / "wheels" / wheel.name
        packed.write_bytes(packed.read_bytes()[:-100])
    elif fault == "wrong hash":
        manifest = json.loads((made / "manifest.json").read_text())
        manifest["packages"]["solver-test-extra"]["wheel"]["sha256"] = "0" * 64
        (made / "manifest.json").write_text(json.dumps(manifest))
    made.rename(machine.place.folder("datasets", WHEELS) / "bundle")
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done)
    refused = "installing the wheels failed" in done.text
    assert refused == (fault != "none"), done.text
    folders = [entry for entry in machine.calls("run")[0]["path"] if "wheels" in Path(entry).parts]
    assert bool(folders) == (fault == "none")
    if fault == "wrong Python":
        assert "3.8" in done.text
    elif refused:
        assert wheel.name in done.text
