"""What `fastdarts bench` writes: one JSON object, read back only where it is one."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import conform, read_json

__all__ = ["FORMAT", "quartiles", "ratios", "read"]

FORMAT = "fastdarts bench 1"
_CONTENDER = {"seconds!": [float], "first_seconds!": float, "kept_bytes!": int, "peak_bytes!": int}
_CASE = {
    "name!": str,
    "title!": str,
    "settings!": dict,
    "gflop!": (float, None),
    "load_average!": float,
    "contenders!": {str: _CONTENDER},
}
_RATES = {"gflops!": float, "cache_gbs!": float, "memory_gbs!": float}
_SCHEMA = {
    "suite!": str,
    "label!": str,
    "date!": str,
    "machine!": {"processor!": str, "isa!": (str, None), "threads!": int, "torch!": str, "load_average!": float},
    "roofline!": {"before!": _RATES, "after!": _RATES},
    "cases!": [_CASE],
}


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A record from its file.

    Raises:
        UserError: no such file, or none that `fastdarts bench --json` printed.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is no record of this suite", f'an object with "format": "{FORMAT}"', "fastdarts bench")
    conform(found, _SCHEMA, str(path))
    for case in found["cases"]:
        for name, contender in case["contenders"].items():
            times = contender["seconds"]
            if not times or not all(math.isfinite(each) and each > 0 for each in times):
                raise UserError(
                    f"{path}: {case['name']}, {name}: no seconds of a step", "positive numbers, at least one"
                )
        rounds = {len(contender["seconds"]) for contender in case["contenders"].values()}
        if "eager" not in case["contenders"] or len(rounds) != 1:
            raise UserError(f"{path}: {case['name']} has no paired rounds", "eager, and of all as many rounds")
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; the values themselves are the extremes of the population."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def ratios(top: Sequence[float], bottom: Sequence[float]) -> dict[str, float]:
    """Of paired rounds: the median of the rounds' ratios, and their quartiles."""
    low, median, high = quartiles([a / b for a, b in zip(top, bottom, strict=True)])
    return {"median": median, "low": low, "high": high}
