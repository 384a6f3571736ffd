"""The benchmark suite: fixed cases against eager torch and `torch.compile`, as `fastdarts bench` runs them."""

from __future__ import annotations

from fastdarts.bench.cases import CASES, Case, Twins
from fastdarts.bench.compare import compare
from fastdarts.bench.record import read
from fastdarts.bench.suite import chosen, run_case, run_suite
from fastdarts.bench.tables import heading, long_table, short_table

__all__ = [
    "CASES",
    "Case",
    "Twins",
    "chosen",
    "compare",
    "heading",
    "long_table",
    "read",
    "run_case",
    "run_suite",
    "short_table",
]
