#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command: the tests that are skipped elsewhere, then the tables.
#
#   tests/gpu/run.sh                      in an environment with the extra `gpu`: pip install -e ".[gpu,dev]"
#   PYTHON=python3 OUT=found LIMIT=3m BUDGET=1m tests/gpu/run.sh          where the machine is there for ten minutes
#
# OUT gets tests.txt, the reports of pytest (with what changing hands takes, and how memory is shared out); fit.md, seconds a step
# and memory of every trainer; engines.md, tokens a second of vLLM and of our engine; run-hf.txt and run-vllm.txt, the same tasks
# for the same BUDGET with either; errors.txt. Each part may take LIMIT, what it found by then is kept, and the next one follows
# whatever became of it. The exit code is that of the tests; what is not installed is skipped by name. The options are those of
# bench_fit.py.
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
LIMIT=${LIMIT:-1h}
BUDGET=${BUDGET:-5m}
mkdir -p "$OUT"

"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
	echo "tests/gpu/run.sh: torch finds no CUDA device; \`solver doctor\` says why" >&2
	exit 2
}
"$PYTHON" -m solver doctor >"$OUT/doctor.txt" 2>&1
timeout -k 20 "$LIMIT" "$PYTHON" -m pytest -m gpu -v -rsP tests 2>&1 | tee "$OUT/tests.txt"
code=${PIPESTATUS[0]}
timeout -k 20 "$LIMIT" "$PYTHON" tests/gpu/bench_fit.py --out "$OUT/fit.md" "$@" 2>>"$OUT/errors.txt"
timeout -k 20 "$LIMIT" "$PYTHON" tests/benchmarks/bench_vllm.py speed --device cuda:0 2>>"$OUT/errors.txt" | tee "$OUT/engines.md"
for engine in hf vllm; do
	"$PYTHON" -m solver run --out "$OUT/run-$engine" --budget "$BUDGET" --set train.trainer=peft --set "infer.engine=$engine" \
		2>&1 | tee "$OUT/run-$engine.txt"
done
exit "$code"
