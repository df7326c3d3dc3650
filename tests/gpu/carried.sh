# Sourced by stay.sh and run.sh, from the root of the checkout: the PACK of pack.sh in place of an environment.
# Sets PACK (empty: there is an environment), KEEP, and with a PACK PYTHON; exports PYTHONPATH, and SOLVER_COMMIT with a PACK.

PACK=${PACK:-}
KEEP=${KEEP:-${TMPDIR:-/tmp}/solver-stay}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$PACK" ]; then
	[ -d "$PACK" ] || { echo "tests/gpu/${0##*/}: $PACK: no such folder; tests/gpu/pack.sh makes it" >&2; exit 2; }
	PYTHON=${PYTHON:-python3}
	[ ! -f "$PACK/commit" ] || export SOLVER_COMMIT=${SOLVER_COMMIT:-$(cat "$PACK/commit")}
	if [ -d "$PACK/wheels" ]; then
		site=$KEEP/site-$(ls "$PACK/wheels" | cksum | cut -d ' ' -f 1) # another PACK may have other wheels
		if [ ! -d "$site" ]; then
			rm -rf "$site.partial"
			"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --root-user-action ignore \
				--target "$site.partial" "$PACK"/wheels/*.whl || exit 1
			mv "$site.partial" "$site"
		fi
		PYTHONPATH=$site:$PYTHONPATH
	fi
fi
