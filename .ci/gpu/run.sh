#!/usr/bin/env bash
# Runs what needs a CUDA device: the tests that are skipped elsewhere, then the benchmarks that make tables.
#
#   .ci/gpu/run.sh                        in an environment with the extra `gpu`: pip install -e ".[gpu,dev]"
#
# On a machine that has torch and transformers but no network, with the folder that .ci/gpu/pack.sh made elsewhere. Where a call
# may take ten minutes at most, these four calls do everything, and each ends in time:
#   PACK=pack OUT=results PARTS="doctor tests" LIMIT=7m .ci/gpu/run.sh
#   PACK=pack OUT=results PARTS="fit runs" MODELS=0.5B LIMIT=5m BUDGET=1m .ci/gpu/run.sh
#   PACK=pack OUT=results PARTS=decode LIMIT=4m .ci/gpu/run.sh
#   PACK=pack OUT=results PARTS=engines LIMIT=4m .ci/gpu/run.sh
# Tests and rows whose package (vllm, unsloth) is not installed are skipped, with its name. vllm with its CUDA libraries is larger
# than the 64 MiB that such a call may carry: the head of pack.sh says how to copy it in parts.
#
# PARTS are run in this order and write to OUT:
#   doctor    doctor.txt
#   tests     tests.txt: pytest's report, with the seconds of handing the device over and the plan of its memory
#   fit       fit-MODEL.md: seconds per step and memory of every trainer, and fits of many tasks in one step; arguments go to bench_fit.py
#   decode    decode-MODEL.md: tokens per second of hf in static batches and without, at 128 and 512 rows
#   engines   engines-MODEL.md: tokens per second of vLLM and of the engine hf
#   runs      run-hf.txt, run-vllm.txt: the same tasks within BUDGET by either engine; their folders are in WORK
# errors.txt gets the errors of `fit`, `decode` and `engines`. MODELS: 0.5B (random weights of Qwen3's shape) and embedded.
# Time limits: LIMIT for the tests and for each table, with 20 seconds more to end; a minute for the doctor; BUDGET for each run.
# A part that fails or is stopped keeps its results so far, and the next part follows. The exit code is that of the tests.
# KEEP holds installed wheels and the 0.5B model for the next call on the same machine.
set -uo pipefail
cd "$(dirname "$0")/../.."
. .ci/gpu/environment.sh
PYTHON=${PYTHON:-python3}
OUT=${OUT:-runs/gpu}
WORK=${WORK:-$(mktemp -d)}
PARTS=${PARTS:-doctor tests fit decode engines runs}
MODELS=${MODELS:-0.5B embedded}
LIMIT=${LIMIT:-1h}
BUDGET=${BUDGET:-5m}
export PYTHONUNBUFFERED=1

refuse() { echo ".ci/gpu/run.sh: $1" >&2; exit 2; }
asked() { [[ " $PARTS " == *" $1 "* ]]; }
# SIGINT lets pytest print its report; env restores it, because a background job of a shell starts with SIGINT ignored
limited() { timeout -s INT -k 20 "$LIMIT" env --default-signal=INT "$PYTHON" "$@"; }

for part in $PARTS; do
	[[ $part =~ ^(doctor|tests|fit|decode|engines|runs)$ ]] || refuse "PARTS: there is no part $part"
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
		limited .ci/gpu/bench_fit.py --models "$model" --out "$OUT/fit-$model.md" "$@" 2>>"$OUT/errors.txt"
	done
fi
# sets `folder` to the arguments that name a model to a benchmark
find_model() {
	folder=()
	if [ "$1" = 0.5B ]; then
		"$PYTHON" .ci/gpu/half_billion.py "$KEEP/0.5B" 2>>"$OUT/errors.txt"
		folder=(--model "$KEEP/0.5B")
	fi
}
if asked decode; then
	for model in $MODELS; do
		find_model "$model"
		limited tests/benchmarks/bench_decode.py "${folder[@]}" 2>>"$OUT/errors.txt" | tee "$OUT/decode-$model.md"
	done
fi
if asked engines; then
	for model in $MODELS; do
		find_model "$model"
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
