#!/usr/bin/env bash
# One call on a machine with a GPU: build, every GPU test, compute-sanitizer on a small case, the benchmarks.
# Full logs and pytest-benchmark's JSON go to $OUT (default bench/results/local); a short table is printed last.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-bench/results/local}
mkdir -p "$out"
python=${PYTHON:-python3}
declare -A result

stage() { # name, command...: keeps the log, remembers the outcome, goes on after a failure
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$out/$name.log" 2>&1; then result[$name]=ok; else result[$name]="FAILED ($?)"; fi
    result[$name]+=", $((SECONDS - start)) s"
}

stage build "$python" -m pip install --no-build-isolation --no-deps -e .
stage doctor "$python" -m fastdarts doctor
stage tests "$python" -m pytest -m gpu -q
stage sanitizer compute-sanitizer --tool memcheck --error-exitcode 1 "$python" -m pytest -m gpu -q tests/test_augment.py
stage benchmarks "$python" -m pytest bench --benchmark-only --benchmark-json "$out/benchmarks.json" -q

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU"
for name in build doctor tests sanitizer benchmarks; do
    printf '%-12s %s\n' "$name" "${result[$name]}"
done
[[ -s $out/benchmarks.json ]] && "$python" -m bench.table "$out/benchmarks.json"
! printf '%s\n' "${result[@]}" | grep -q FAILED
