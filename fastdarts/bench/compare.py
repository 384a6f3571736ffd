"""Two records side by side: of each case and contender the ratio of times, and whether it is more than the spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdarts.bench.record import quartiles, ratios
from fastdarts.errors import UserError

__all__ = ["compare"]


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The second record beside the first.

    Args:
        first, second: as :func:`fastdarts.bench.read` returns them.

    Returns:
        `rows`, of each contender of each case that both measured with the same settings: `seconds` [first, second],
        medians; `time`, second / first; `speed_up` [first, second], medians of eager / it; `time_verdict` and
        `speed_up_verdict`, "within the spread" where the quartiles of both overlap, else which way it went;
        `kept_bytes`, `peak_bytes` [first, second]. `left_out`: the cases that only one has, or with other settings.
        `notes`: how the machines differ, and loads above one.

    Raises:
        UserError: no case in common.
    """
    theirs = {case["name"]: case for case in second["cases"]}
    rows, left_out = [], [name for name in theirs if name not in {case["name"] for case in first["cases"]}]
    for case in first["cases"]:
        other = theirs.get(case["name"])
        if other is None or other["settings"] != case["settings"]:
            left_out.append(case["name"])
            continue
        for name, contender in case["contenders"].items():
            if name in other["contenders"]:
                rows.append(_row(case, other, name, contender, other["contenders"][name]))
    if not rows:
        raise UserError("the two records have no case in common", "the same cases with the same settings")
    return {"rows": rows, "left_out": left_out, "notes": _notes(first, second)}


def _row(
    case: Mapping[str, Any], other: Mapping[str, Any], name: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> dict[str, Any]:
    times = quartiles(a["seconds"]), quartiles(b["seconds"])
    row: dict[str, Any] = {
        "case": case["name"],
        "title": case["title"],
        "contender": name,
        "seconds": [times[0][1], times[1][1]],
        "time": times[1][1] / times[0][1],
        "time_verdict": _verdict(*times, "slower", "faster"),
        "kept_bytes": [a["kept_bytes"], b["kept_bytes"]],
        "peak_bytes": [a["peak_bytes"], b["peak_bytes"]],
    }
    if name != "eager":
        # Counted from the rounds, so that a file cannot say one thing in its seconds and another in its ratios.
        found = [
            ratios(each["contenders"]["eager"]["seconds"], each["contenders"][name]["seconds"])
            for each in (case, other)
        ]
        a_spread, b_spread = ((each["low"], each["median"], each["high"]) for each in found)
        row["speed_up"] = [each["median"] for each in found]
        row["speed_up_verdict"] = _verdict(a_spread, b_spread, "more", "less")
    return row


def _verdict(a: tuple[float, ...], b: tuple[float, ...], above: str, below: str) -> str:
    """Quartiles, median between them."""
    if min(a[2], b[2]) >= max(a[0], b[0]):
        return "within the spread"
    return above if b[1] > a[1] else below


def _notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    notes = [f"{which} is {record['label']}" for which, record in (("A", first), ("B", second)) if record["label"]]
    for name in ("processor", "isa", "threads", "torch"):
        a, b = first["machine"][name], second["machine"][name]
        if a != b:
            notes.append(f"{name}: A {a}, B {b}")
    for which, record in (("A", first), ("B", second)):
        load = record["machine"]["load_average"]
        if load > 1:
            notes.append(f"{which} began at a load of {load}: its machine was not idle")
    return notes
