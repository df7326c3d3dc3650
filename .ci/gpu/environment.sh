# Sourced by train.sh and run.sh, from the root of the checkout: uses the folder PACK that pack.sh made in place of an installed
# environment. Without PACK the environment is that of PYTHON.
# Sets PACK (empty without one), KEEP and, with a PACK, PYTHON. Exports PYTHONPATH and, with a PACK, SOLVER_COMMIT.

PACK=${PACK:-}
KEEP=${KEEP:-${TMPDIR:-/tmp}/solver-gpu}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$PACK" ]; then
	[ -d "$PACK" ] || { echo ".ci/gpu/${0##*/}: $PACK: no such folder; .ci/gpu/pack.sh makes it" >&2; exit 2; }
	PYTHON=${PYTHON:-python3}
	[ ! -f "$PACK/commit" ] || export SOLVER_COMMIT=${SOLVER_COMMIT:-$(cat "$PACK/commit")}
	if [ -d "$PACK/wheels" ]; then
		site=$KEEP/site-$(ls "$PACK/wheels" | cksum | cut -d ' ' -f 1) # one folder for each set of wheels
		if [ ! -d "$site" ]; then
			rm -rf "$site.partial"
			"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --root-user-action ignore \
				--target "$site.partial" "$PACK"/wheels/*.whl || exit 1
			mv "$site.partial" "$site"
		fi
		PYTHONPATH=$site:$PYTHONPATH
	fi
fi
