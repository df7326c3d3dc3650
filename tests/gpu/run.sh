#!/usr/bin/env bash
# What needs a CUDA device: the tests that are skipped elsewhere, then the tables.
#
#   tests/gpu/run.sh                      in an environment with the extra `gpu`: pip install -e ".[gpu,dev]"
#
# Where there is no network, but torch and transformers, and a call ends after ten minutes, with the folder that tests/gpu/pack.sh
# makes elsewhere; each of these calls ends within the ten minutes:
#   PACK=pack OUT=found PARTS="doctor tests" LIMIT=7m tests/gpu/run.sh
#   PACK=pack OUT=found PARTS="fit runs" MODELS=0.5B LIMIT=5m BUDGET=1m tests/gpu/run.sh
#   PACK=pack OUT=found PARTS=engines LIMIT=4m tests/gpu/run.sh
# vllm with its CUDA libraries is larger than the 64 MiB that such a call may carry: the head of pack.sh says how it goes over in
# parts. What is not installed is skipped by name.
#
# PARTS, in this order, and what OUT gets of them:
#   doctor    doctor.txt
#   tests     tests.txt: the reports of pytest, with what switching the device takes, and how memory is shared out
#   fit       fit-MODEL.md: seconds a step and memory of every trainer; options go to bench_fit.py
#   engines   engines-MODEL.md: tokens a second of vLLM and of our engine
#   runs      run-hf.txt, run-vllm.txt: the same tasks for the same BUDGET with either, in folders of WORK
# and errors.txt. MODELS: 0.5B (random weights of Qwen3's shape) and embedded. The tests and every table may take LIMIT, and 20
# seconds to end; what was found by then is kept, and the next one follows whatever became of it. The doctor may take a minute, a run
# BUDGET. The exit code is that of the tests. KEEP has installed wheels and the model for the next call on the same machine.
set -uo pipefail
cd "$(dirname "$0")/../.."
. tests/gpu/carried.sh
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
WORK=${WORK:-$(mktemp -d)}
PARTS=${PARTS:-doctor tests fit engines runs}
MODELS=${MODELS:-0.5B embedded}
LIMIT=${LIMIT:-1h}
BUDGET=${BUDGET:-5m}
export PYTHONUNBUFFERED=1

refuse() { echo "tests/gpu/run.sh: $1" >&2; exit 2; }
asked() { [[ " $PARTS " == *" $1 "* ]]; }
# an interrupted pytest still reports; who started us may have it ignored
limited() { timeout -s INT -k 20 "$LIMIT" env --default-signal=INT "$PYTHON" "$@"; }

for part in $PARTS; do
	[[ $part =~ ^(doctor|tests|fit|engines|runs)$ ]] || refuse "PARTS: there is no part $part"
done
for model in $MODELS; do
	[[ $model =~ ^(0.5B|embedded)$ ]] || refuse "MODELS: there is no model $model"
done
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
	|| refuse 'torch finds no CUDA device; `solver doctor` says why'
mkdir -p "$OUT" "$KEEP"

code=0
if asked doctor; then
	timeout -k 10 1m "$PYTHON" -m solver doctor 2>&1 | tee "$OUT/doctor.txt"
fi
if asked tests; then
	limited -m pytest -m gpu -v -rsP tests/gpu 2>&1 | tee "$OUT/tests.txt"
	code=${PIPESTATUS[0]}
fi
if asked fit; then
	for model in $MODELS; do
		limited tests/gpu/bench_fit.py --models "$model" --out "$OUT/fit-$model.md" "$@" 2>>"$OUT/errors.txt"
	done
fi
if asked engines; then
	for model in $MODELS; do
		folder=()
		if [ "$model" = 0.5B ]; then
			"$PYTHON" tests/gpu/half_billion.py "$KEEP/0.5B" 2>>"$OUT/errors.txt"
			folder=(--model "$KEEP/0.5B")
		fi
		limited tests/benchmarks/bench_vllm.py speed --ranks 64 16 8 --device cuda:0 "${folder[@]}" 2>>"$OUT/errors.txt" \
			| tee "$OUT/engines-$model.md"
	done
fi
if asked runs; then
	for engine in hf vllm; do
		"$PYTHON" -m solver run --out "$WORK/run-$engine" --budget "$BUDGET" --set train.trainer=lora --set "infer.engine=$engine" \
			2>&1 | tee "$OUT/run-$engine.txt"
	done
fi
exit "$code"
