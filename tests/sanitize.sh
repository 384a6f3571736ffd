#!/usr/bin/env bash
# The native core under AddressSanitizer and UndefinedBehaviorSanitizer: a copy of the tree, built so, runs the op tests.
#   tests/sanitize.sh                        tests/sanitize.sh tests/test_stencil.py -k dilation
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python3}")
[[ $python == /* ]] || python=$PWD/$python
cxx=${CXX:-g++}
asan=$("$cxx" -print-file-name=libasan.so)
[[ $asan == /* ]] || { echo "tests/sanitize.sh: $cxx has no libasan.so; install its sanitizers" >&2; exit 2; }

tree=$(mktemp -d)
trap 'rm -r "$tree"' EXIT
cp -r fastdarts csrc kernels tests setup.py pyproject.toml README.md "$tree"
rm -f "$tree"/fastdarts/_C*.so
if [[ $# == 0 ]]; then
    for op in augment stencil mixed_sum preprocess cell_op cell_native; do [[ -e tests/test_$op.py ]] && set -- "$@" "tests/test_$op.py"; done
fi

cd "$tree"
echo "Building with -fsanitize=address,undefined in $tree"
CC=${CC:-gcc} CXX=$cxx FASTDARTS_BUILD=sanitize "$python" setup.py --quiet build_ext --inplace
# Python itself leaks on purpose.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2
# libstdc++ beside it: Python does not link it, and torch's exceptions must find the one that is watched. What the
# sanitizers print must reach the terminal, past pytest's capturing of file descriptors.
LD_PRELOAD="$asan $("$cxx" -print-file-name=libstdc++.so)" "$python" -m pytest -q --capture=sys -p no:cacheprovider "$@"
