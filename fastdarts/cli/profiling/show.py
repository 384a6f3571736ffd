"""A profile as tables in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fastdarts.report.words import as_bytes

__all__ = ["show"]

_OPERATIONS, _PARTS = 12, 12  # rows; --json has all


def show(found: Mapping[str, Any]) -> None:
    """Print it on standard output."""
    out = Console(highlight=False, markup=False, width=None if Console().is_terminal else 120)
    facts, rows = found["facts"], found["rows"]
    out.print(_summary(facts, rows))
    if any(row["equal"] is not None for row in rows):
        unequal = [_name(row) for row in rows if row["equal"] is False]
        said = "equal to the byte" if not unequal else f"not equal to what was predicted with {', '.join(unequal)}"
        out.print(
            f"kept and peak of a pass: measured, {said}; step: the most that existed in a real step", soft_wrap=True
        )
    for row in rows:
        if row["error"]:
            out.print(f"{_name(row)}: {row['error']}", soft_wrap=True)
    detailed = next((row["values"] for row in rows if row["values"].get("time")), None)
    if detailed is not None:
        out.print("", _parts(rows), "", _levels(rows), "", _operations(rows))
    if found["growth"]:
        out.print("", _growth(found["growth"]))
    for each in found["largest"]:
        out.print(_largest(each, facts["budget_bytes"]), soft_wrap=True)
    for note in facts["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
    if found.get("page"):
        out.print(f"page  {found['page']}", soft_wrap=True)


def _summary(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    height, width = facts["image_size"]
    title = f"{facts['space']}, {facts['method']}: C {facts['channels']}, {facts['layers']} cells, "
    title += f"batch {facts['batch_size']} of {facts['in_channels']}x{height}x{width}, {facts['dtype']}"
    axes = list(dict.fromkeys(name for row in rows for name in row["settings"] if name != "memory"))
    if facts["sweep"]:
        title = f"{facts['space']}, {facts['method']}: sweep of {', '.join(facts['sweep'])}"
    table = _table(
        [*axes, "who", "kept", "peak of a pass", "step predicted", "step", "time of a step", "images/s"], title
    )
    for row in rows:
        who = "out of memory" if row["out_of_memory"] else ""
        figures = [row["kept_bytes"], row["peak_bytes"], row["predicted"]["total_bytes"], row["step_bytes"]]
        shown = ["-" if each is None else as_bytes(each, 3) for each in figures]
        speed = who or (f"{row['images_per_second']:.4g}" if row["images_per_second"] else "-")
        settings = [row["settings"].get(name, "") for name in axes]
        table.add_row(*settings, _who(row), *shown, _time(row["seconds"]), speed)
    return table


def _parts(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Kept and peak bytes by part of the network, one column a mode."""
    detailed = [row for row in rows if row["values"].get("shares", {}).get("measured")]
    table = _table(["kept, at the peak, by part", *map(_who, detailed)])
    sums = [_by(row["values"]["shares"]["measured"], "part") for row in detailed]
    for part in dict.fromkeys(part for each in sums for part in each):
        table.add_row(part, *("{}, {}".format(*map(_bytes, each.get(part, (0, 0)))) for each in sums))
    table.add_section()
    by_op = [_by(row["values"]["shares"]["measured"], "op") for row in detailed]
    names = sorted(
        {op for each in by_op for op in each}, key=lambda op: -sum(sum(each.get(op, (0, 0))) for each in by_op)
    )
    for op in names[:_PARTS]:
        table.add_row(op, *("{}, {}".format(*map(_bytes, each.get(op, (0, 0)))) for each in by_op))
    return table


def _by(shares: Sequence[Mapping[str, Any]], what: str) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for share in shares:
        kept, peak = found.get(share[what], (0, 0))
        found[share[what]] = kept + share["kept_bytes"], peak + share["peak_bytes"]
    return found


def _levels(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        ["time of a step", "architecture", "weights", "profiled", "kernels", "torch", "Python", "first step"]
    )
    for row in rows:
        step, time = row["values"].get("step"), row["values"].get("time")
        if step and time:
            levels = [_time(step["levels"].get(name)) for name in ("architecture", "weights")]
            shares = [_share(time["levels"][name], time["seconds"]) for name in ("kernels", "torch", "python")]
            table.add_row(_who(row), *levels, _time(time["seconds"]), *shares, _time(step["first_seconds"]))
    return table


def _operations(rows: Sequence[Mapping[str, Any]]) -> Table:
    row = next(row for row in rows if row["values"].get("time"))
    time = row["values"]["time"]
    table = _table([f"time by operation, {_who(row)}", "level", "calls", "time", "of the step"])
    for each in time["operations"][:_OPERATIONS]:
        share = _share(each["seconds"], time["seconds"])
        table.add_row(each["op"], each["level"], str(each["calls"]), _time(each["seconds"]), share)
    return table


def _growth(growth: Sequence[Mapping[str, Any]]) -> Table:
    table = _table(
        ["along", "with", "figure", "slope", "at 0", "r squared", "largest residual"], "growth, straight lines"
    )
    for each in growth:
        show = _time if each["figure"] == "seconds" else _signed
        fixed = ", ".join(
            f"{value}" if name in ("memory", "contender") else f"{name} {value}"
            for name, value in each["fixed"].items()
        )
        slope = f"{show(each['slope'])} each"
        fit = f"{each['r_squared']:.5f}", f"{100 * each['residual']:.2g}%"
        table.add_row(each["axis"], fixed, each["figure"], slope, show(each["intercept"]), *fit)
    return table


def _largest(each: Mapping[str, Any], budget: int) -> str:
    where = ", ".join(f"{name} {value}" for name, value in each["settings"].items() if name != "memory")
    mode = each["settings"]["memory"] + (f" ({where})" if where else "")
    if not each["batch_size"]:
        return f"largest batch in {as_bytes(budget, 3)} with {mode}: none"
    said = f"largest batch in {as_bytes(budget, 3)} with {mode}: {each['batch_size']}"
    said += f", predicted {as_bytes(each['predicted_bytes'], 3)}"
    if each["step_bytes"] is None:
        return f"{said}; one real step: {'out of memory' if each['out_of_memory'] else each['error']}"
    verdict = "fits" if each["fits"] else "does not fit"
    return f"{said}; one real step took {as_bytes(each['step_bytes'], 3)}: {verdict}"


def _table(columns: Sequence[str], title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 or name in ("who", "with", "figure", "level") else "right")
    return table


def _who(row: Mapping[str, Any]) -> str:
    return str(row["settings"].get("memory", row["contender"]) if row["contender"] == "fastdarts" else row["contender"])


def _name(row: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
    return f"{row['contender']} ({settings})" if settings else str(row["contender"])


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    unit, size = ("s", 1.0) if abs(seconds) >= 1 else ("ms", 1e-3) if abs(seconds) >= 1e-3 else ("us", 1e-6)
    return f"{seconds / size:.3g} {unit}"


def _bytes(count: int) -> str:
    return as_bytes(count, 3)


def _share(seconds: float, whole: float) -> str:
    return f"{100 * seconds / whole:.3g}%"


def _signed(count: float) -> str:
    return f"-{as_bytes(-count, 3)}" if count < 0 else as_bytes(count, 3)
