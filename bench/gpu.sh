#!/usr/bin/env bash
# One call on a machine with a GPU: build, tests, compute-sanitizer, benchmarks; a short table of it all comes last.
#
#   bench/gpu.sh                        every stage, as far as LIMIT seconds (570) reach
#   bench/gpu.sh build tests kernels    some of them, in this order
#   bench/gpu.sh --toy kernels steps    a benchmark's stages at toy size, without a GPU
#
# A stage that fails, or is over its time, does not stop the others. $OUT (default bench/results/local) gets gpu.json, all
# figures; table.md, the whole table; log.txt, what every stage printed. One call of a lent machine is ten minutes, so:
#
#   1   bench/gpu.sh build doctor ceilings warm tests kernels
#   2   bench/gpu.sh build doctor ceilings warm steps memory mixed_op epochs profiles
#   3   bench/gpu.sh build memcheck racecheck compiled
#
# Then, here: python -m bench.gpu.summary call1/gpu.json call2/gpu.json call3/gpu.json
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
limit=${LIMIT:-570}
out=${OUT:-bench/results/local}
work=bench/results/local/gpu # what stages hand on to each other; kept for later calls on the same machine
toy=
if [[ ${1:-} == --toy ]]; then
    toy=--toy
    limit=${LIMIT:-3600} # nothing is lent, but the machine may be busy
    work=$(mktemp -d)
    shift
fi
mkdir -p "$out" "$work"
: >"$out/log.txt"
export PYTHONUNBUFFERED=1
FASTDARTS_COMMIT=${FASTDARTS_COMMIT:-$(git describe --always --dirty=+changes --abbrev=9 2>/dev/null || echo unknown)}
export FASTDARTS_COMMIT

# Seconds that a stage gets at most.
declare -A own=(
    [build]=240 [doctor]=60 [ceilings]=60 [warm]=240 [tests]=330 [kernels]=180 [steps]=180 [memory]=80 [mixed_op]=60
    [profiles]=90 [epochs]=180 [compiled]=400 [memcheck]=200 [racecheck]=240
)
every=(build doctor ceilings warm tests kernels steps memory mixed_op epochs profiles memcheck racecheck compiled)
declare -A result
run=()

build() {
    # A machine that is still warm from the call before has it.
    if [[ -z $(find csrc setup.py -newer "$(ls -t fastdarts/_C*.so 2>/dev/null | head -1)" 2>/dev/null) ]] &&
        "$python" -c 'import fastdarts._C' 2>/dev/null; then
        echo "up to date"
        return
    fi
    "$python" -m pip install --no-build-isolation --no-deps -e .
}

tests() {
    local side=()
    "$python" -c 'import xdist' 2>/dev/null && side=(-n 8)
    # Its plugin warns beside xdist, and warnings are errors.
    "$python" -m pytest -m gpu -q -p no:cacheprovider -p no:benchmark "${side[@]}"
}

sanitizer() { # tool; every allocation its own, so that what lies beyond one is nobody's
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --launch-timeout 60 \
        "$python" -m bench.gpu.sanitize --out "$work"
}

stage() { # name: runs it, keeps its log, remembers how it ended
    local name=$1 left=$((limit - SECONDS)) start=$SECONDS most status
    most=$left
    [[ -z $toy ]] && ((own[$name] < left)) && most=${own[$name]}
    if ((most < 5)); then
        result[$name]="not run: $limit s were over"
        return
    fi
    echo "== $name, at most $most s" >>"$out/log.txt"
    case $name in
        build | tests) (timeout -k 5 "$most" bash -c "$(declare -f "$name"); python=$python $name") ;;
        doctor) timeout -k 5 "$most" "$python" -m fastdarts doctor ;;
        memcheck | racecheck)
            (timeout -k 5 "$most" bash -c "$(declare -f sanitizer); python=$python work=$work sanitizer $name")
            ;;
        *) timeout -k 5 "$most" "$python" -m "bench.gpu.$name" --out "$work" --seconds $((most - 15)) $toy ;;
    esac >>"$out/log.txt" 2>&1
    status=$?
    if ((status == 0)); then result[$name]=ok; else result[$name]="FAILED ($status)"; fi
    ((status == 124 || status == 137)) && result[$name]="FAILED: over its $most s"
    result[$name]+=", $((SECONDS - start)) s"
    # Complete after every stage, should this call be cut off.
    "$python" -m bench.gpu.summary "$work" >/dev/null 2>>"$out/log.txt" && cp "$work/gpu.json" "$work/table.md" "$out"
}

for name in "${@:-${every[@]}}"; do
    if [[ -z ${own[$name]:-} ]]; then
        echo "no stage is called $name; stages: ${every[*]}" >&2
        exit 2
    fi
    run+=("$name")
done
for name in "${run[@]}"; do stage "$name"; done

"$python" -m bench.gpu.summary --short "$work" || tail -5 "$out/log.txt"
echo
grep -E '^(FAILED|ERROR) |passed|failed|ERROR SUMMARY|RACECHECK SUMMARY' "$out/log.txt" | tail -20
echo "commit $FASTDARTS_COMMIT"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU"
for name in "${run[@]}"; do printf '%-12s %s\n' "$name" "${result[$name]}"; done
! printf '%s\n' "${result[@]}" | grep -q -e FAILED -e 'not run'
