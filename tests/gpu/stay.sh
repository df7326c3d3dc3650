#!/usr/bin/env bash
# One stay on a borrowed machine: continue the base model for some minutes, then measure it. Every stay ends with the few
# files that the next one needs, so that many short stays add up to one long training.
#
#   make gpu CORPUS=corpora MINUTES=25                            the first stay, from the embedded model
#   make gpu CORPUS=corpora MINUTES=25 RESUME=carried OUT=next    every other one
#
# What has to be there: this checkout with its environment, CORPUS (folder of corpus files), and RESUME (the OUT of the stay
# before; none: the embedded model's weights, whose optimizer state is warmed up anew).
# What OUT holds at the end, at most 8 files of at most 15 MiB: state.json, weights-*.safetensors and
# optimizer-*.safetensors (enough to go on from exactly), metrics.jsonl, held_out.jsonl, tasks.jsonl.
#
# Settings, all by environment: PYTHON, CORPUS, RESUME, OUT, WORK, MINUTES, COOLDOWN, DEVICE, BATCH_TOKENS, MAX_TOKENS, WORKERS,
# PRESET (a new model of that size instead of the embedded one), QUERIES, BUDGETS (empty: no runs), TASKS, SHORTEST, SEED.
set -euo pipefail

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

mkdir -p "$OUT" "$WORK"
corpus=()
[ -z "$CORPUS" ] || corpus=(--corpus "$CORPUS")
start=()
if [ -n "$RESUME" ]; then
	start=(--resume "$RESUME")
	cp "$RESUME"/metrics.jsonl "$WORK"/ 2>/dev/null || true
elif [ -n "$PRESET" ]; then
	start=(--preset "$PRESET")
else
	start=(--resume solver/model/embedded)
fi

# SIGTERM ends the training with a checkpoint, which is carried out; SIGKILL loses the stay, so choose MINUTES below the limit.
"$PYTHON" -m solver pretrain "${corpus[@]}" "${start[@]}" --out "$WORK" --minutes "$MINUTES" --cooldown "$COOLDOWN" \
	--device "$DEVICE" --batch-tokens "$BATCH_TOKENS" --max-tokens "$MAX_TOKENS" --workers "$WORKERS" --seed "$SEED" &
child=$!
stopped=
trap 'stopped=1; kill -TERM $child' TERM INT
wait $child || wait $child
rm -f "$OUT"/weights-*.safetensors "$OUT"/optimizer-*.safetensors
cp -L "$WORK"/latest/{state.json,weights-*.safetensors,optimizer-*.safetensors} "$WORK"/metrics.jsonl "$OUT"/
trap - TERM INT
[ -z "$stopped" ] || exit 143

for table in held_out tasks; do
	cp "${RESUME:-/nonexistent}/$table.jsonl" "$WORK"/ 2>/dev/null || true
done
"$PYTHON" -m solver evaluate "$WORK"/latest "${corpus[@]}" --cache "$WORK" --queries "$QUERIES" --out "$WORK"
cp "$WORK"/held_out.jsonl "$OUT"/
if [ -n "$BUDGETS" ]; then
	"$PYTHON" -m solver evaluate "$WORK"/latest --on arc1:evaluation --budgets "$BUDGETS" --tasks "$TASKS" --shortest "$SHORTEST" \
		--set model.device="$DEVICE" --out "$WORK"
	cp "$WORK"/tasks.jsonl "$OUT"/
fi

count=$(find "$OUT" -maxdepth 1 -type f | wc -l)
large=$(find "$OUT" -maxdepth 1 -type f -size +15360k | wc -l)
[ "$count" -le 8 ] && [ "$large" -eq 0 ] || { echo "$OUT: $count files, $large of them above 15 MiB" >&2; exit 1; }
echo "go on with: make gpu CORPUS=$CORPUS MINUTES=$MINUTES RESUME=$OUT OUT=<another folder>"
