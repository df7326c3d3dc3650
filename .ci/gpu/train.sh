#!/usr/bin/env bash
# Continues the base model for MINUTES on a borrowed machine, then measures it. OUT gets the few files that the next call needs, so
# many short calls add up to one long training.
#
# Where the package is installed:
#   make gpu CORPUS=corpora MINUTES=25                            the first call, from embedded-base
#   make gpu CORPUS=corpora MINUTES=25 RESUME=carried OUT=next    every later one
# Where it is not, but torch and transformers are, with the folder that .ci/gpu/pack.sh made elsewhere:
#   PACK=pack MINUTES=7 OUT=next .ci/gpu/train.sh
#
# It needs this checkout (git is not needed). PACK brings an environment, CORPUS (folder of corpus files) and RESUME (folder OUT of
# the call before; without it: the weights of embedded-base with a new optimizer, whose learning rate warms up).
# OUT holds at most 8 files of at most 15 MiB at the end: state.json, weights-*.safetensors and optimizer-*.safetensors, which are
# enough to go on exactly, and metrics.jsonl, held_out.jsonl, tasks.jsonl.
#
# If the machine ends calls after some minutes, or may be lost between them, run one training in each call, with MINUTES well below the
# limit and QUERIES=0 BUDGETS= in all but the last, which measures. KEEP holds packed corpora, installed wheels and compiled code
# for the next call on the same machine.
#
# Settings, all by environment: PACK, PYTHON, CORPUS, RESUME, OUT, WORK, KEEP, MINUTES, COOLDOWN, DEVICE, BATCH_TOKENS, MAX_TOKENS, WORKERS,
# PRESET (a new model of that size instead of embedded-base), QUERIES (0: none), BUDGETS (empty: no runs), TASKS, SHORTEST, SEED.
set -euo pipefail
cd "$(dirname "$0")/../.."

. .ci/gpu/environment.sh
if [ -n "$PACK" ]; then
	[ ! -d "$PACK/corpus" ] || CORPUS=${CORPUS:-$PACK/corpus}
	[ ! -d "$PACK/checkpoint" ] || RESUME=${RESUME:-$PACK/checkpoint}
fi
PYTHON=${PYTHON:-.venv/bin/python}
CORPUS=${CORPUS:-}
RESUME=${RESUME:-}
PRESET=${PRESET:-}
OUT=${OUT:-runs/carried}
WORK=${WORK:-$(mktemp -d)}
MINUTES=${MINUTES:-20}
COOLDOWN=${COOLDOWN:-0}
DEVICE=${DEVICE:-cuda}
BATCH_TOKENS=${BATCH_TOKENS:-131072}
MAX_TOKENS=${MAX_TOKENS:-2048}
WORKERS=${WORKERS:-$(($(nproc) > 2 ? $(nproc) - 2 : 0))}
QUERIES=${QUERIES:-1000}
BUDGETS=${BUDGETS-0,10m}
TASKS=${TASKS:-400}
SHORTEST=${SHORTEST:-400}
SEED=${SEED:-0}

mkdir -p "$OUT" "$WORK" "$KEEP"
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$KEEP/compiled}
cp -n "$KEEP"/corpus-*.npz "$WORK"/ 2>/dev/null || true
for table in metrics held_out tasks; do
	[ -z "$RESUME" ] || [ ! -f "$RESUME/$table.jsonl" ] || cp "$RESUME/$table.jsonl" "$WORK"/
done
corpus=()
[ -z "$CORPUS" ] || corpus=(--corpus "$CORPUS")
start=()
if [ -n "$RESUME" ]; then
	start=(--resume "$RESUME")
elif [ -n "$PRESET" ]; then
	start=(--preset "$PRESET")
else
	start=(--resume solver/model/embedded/base)
fi

launch=("$PYTHON" -m solver)
devices=1
[ "$DEVICE" != cuda ] || devices=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
[ "$devices" -le 1 ] || launch=("$PYTHON" -m torch.distributed.run --nproc-per-node "$devices" -m solver)

# SIGTERM ends the training with a checkpoint, which is copied to OUT. SIGKILL loses this call's work: choose MINUTES below the limit.
"${launch[@]}" pretrain "${corpus[@]}" "${start[@]}" --out "$WORK" --minutes "$MINUTES" --cooldown "$COOLDOWN" \
	--device "$DEVICE" --batch-tokens "$BATCH_TOKENS" --max-tokens "$MAX_TOKENS" --workers $((WORKERS / (devices > 0 ? devices : 1))) --seed "$SEED" &
child=$!
stopped=
trap 'stopped=1; kill -TERM $child' TERM INT
wait $child || wait $child || [ -n "$stopped" ]
[ -e "$WORK/latest" ] || { echo ".ci/gpu/train.sh: stopped before there was a checkpoint; $OUT is as it was" >&2; exit 143; }
# OUT may be RESUME: its old files are deleted only when all new ones are there
rm -rf "$OUT/.partial"
mkdir "$OUT/.partial"
find -L "$WORK/latest" -maxdepth 1 \( -name state.json -o -name 'weights-*.safetensors' -o -name 'optimizer-*.safetensors' \) \
	-exec cp -t "$OUT/.partial" {} +
cp "$WORK"/*.jsonl "$OUT/.partial"/
rm -f "$OUT"/weights-*.safetensors "$OUT"/optimizer-*.safetensors
mv "$OUT/.partial"/* "$OUT"/
rmdir "$OUT/.partial"
cp -n "$WORK"/corpus-*.npz "$KEEP"/ 2>/dev/null || true
trap - TERM INT
[ -z "$stopped" ] || exit 143

if [ "$QUERIES" != 0 ]; then
	"$PYTHON" -m solver evaluate "$WORK"/latest "${corpus[@]}" --cache "$WORK" --queries "$QUERIES" --out "$WORK"
	cp "$WORK"/held_out.jsonl "$OUT"/
fi
if [ -n "$BUDGETS" ]; then
	"$PYTHON" -m solver evaluate "$WORK"/latest --on arc1:evaluation --budgets "$BUDGETS" --tasks "$TASKS" --shortest "$SHORTEST" \
		--set model.device="$DEVICE" --out "$WORK"
	cp "$WORK"/tasks.jsonl "$OUT"/
fi

count=$(find "$OUT" -maxdepth 1 -type f | wc -l)
large=$(find "$OUT" -maxdepth 1 -type f -size +15360k | wc -l)
[ "$count" -le 8 ] && [ "$large" -eq 0 ] || { echo "$OUT: $count files, $large of them above 15 MiB" >&2; exit 1; }
if [ -n "$PACK" ]; then
	echo "go on with: CORPUS=<corpora> .ci/gpu/pack.sh $PACK $OUT here, then PACK=$PACK MINUTES=$MINUTES OUT=<another folder> .ci/gpu/train.sh there"
else
	echo "go on with: make gpu CORPUS=$CORPUS MINUTES=$MINUTES RESUME=$OUT OUT=<another folder>"
fi
