#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command: the tests that are skipped elsewhere, then the table of fits.
#
#   tests/gpu/run.sh                      in an environment with the extra `gpu`: pip install -e ".[gpu,dev]"
#   PYTHON=python3 OUT=found tests/gpu/run.sh
#
# OUT gets tests.txt, the reports of pytest (with what changing hands takes, and how memory is shared out), and fit.md, tokens
# a second and memory of every trainer. The exit code is that of the tests; what is not installed is skipped by name.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
mkdir -p "$OUT"

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
	echo "tests/gpu/run.sh: torch finds no CUDA device; \`solver doctor\` says why" >&2
	exit 2
}
"$PYTHON" -m pytest -m gpu -v -rsP tests 2>&1 | tee "$OUT/tests.txt"
code=${PIPESTATUS[0]}
"$PYTHON" tests/gpu/bench_fit.py --out "$OUT/fit.md" "$@"
exit "$code"
