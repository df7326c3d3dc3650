"""A stand-in for the installer of offline wheels, with the same options: it behaves as `report.json` beside it says.

    python install.py --wheels DIR --prefix FOLDER --seconds N --json

The last line on stdout is a JSON object. Exit code 0: done, 2: refused, 1: failed.
"""

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """The command."""
    option = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    assert Path(option["--wheels"]) == HERE
    assert float(option["--seconds"]) > 0
    assert "--json" in sys.argv
    report = json.loads((HERE / "report.json").read_text())
    if report.get("hangs"):
        time.sleep(600)
    if report["error"]:
        print(json.dumps({"ok": False, "path": None, **report}))
        return 2
    prefix = Path(option["--prefix"])
    (prefix / "vllm").mkdir(parents=True)
    (prefix / "vllm/__init__.py").write_text((HERE / "vllm.txt").read_text())
    print("a line before the report")
    print(json.dumps({"ok": True, "target": "kaggle", "path": str(prefix), "installed": ["vllm"], "seconds": 0.1, **report}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
