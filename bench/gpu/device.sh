#!/usr/bin/env bash
# First contact with a GPU, in two calls of a machine that is lent by the minute; what is needed there is carried:
#
#   make device-kit                       here, after any change of a kernel: .dev/
#   bench/gpu/device.sh A                 there, 150 s: does it run, is it right, what is the first figure
#   bench/gpu/device.sh B                 there, 540 s: what it costs
#   bench/gpu/device.sh --dry A B         here, on a GPU of paper: every line that will run there, no figure
#
# On a GPU of your own, some checks, or all: bench/gpu/device.sh build doctor warm parity tests steps
#
# $OUT (default bench/results/local/gpu) has rows.jsonl, complete after every row; log.txt; table.md.
# Afterwards, here: python -m bench.gpu.summary A/rows.jsonl B/rows.jsonl
set -uo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m bench.gpu.call "$@"
