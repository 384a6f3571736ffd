"""The benchmark suite: fixed cases against eager torch and `torch.compile`, as `fastdarts bench` runs them."""

from __future__ import annotations

from fastdarts.bench.cases import CASES, Case, Twins
from fastdarts.bench.compare import compare
from fastdarts.bench.machine import describe, load_average, processor, roofline
from fastdarts.bench.record import FORMAT, quartiles, ratios, read
from fastdarts.bench.suite import SUITES, chosen, run_case, run_suite
from fastdarts.bench.tables import heading, long_table, short_table

__all__ = [
    "CASES",
    "FORMAT",
    "SUITES",
    "Case",
    "Twins",
    "chosen",
    "compare",
    "describe",
    "heading",
    "load_average",
    "long_table",
    "processor",
    "quartiles",
    "ratios",
    "read",
    "roofline",
    "run_case",
    "run_suite",
    "short_table",
]
