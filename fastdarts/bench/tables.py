"""Markdown of records: what README and docs show of them, and nothing typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastdarts.bench.record import quartiles, ratios
from fastdarts.plan import MEMORY

__all__ = ["heading", "long_table", "short_table"]


def heading(record: Mapping[str, Any]) -> str:
    """Machine, versions, load and roofline in one line."""
    machine, rates = record["machine"], record["roofline"]
    label = f"**{record['label']}**; " if record["label"] else ""
    measured = ", ".join(
        f"{name} {rates['before'][key]:.0f} / {rates['after'][key]:.0f} {unit}"
        for name, key, unit in (
            ("sgemm", "gflops", "GFLOP/s"),
            ("copy in cache", "cache_gbs", "GB/s"),
            ("in memory", "memory_gbs", "GB/s"),
        )
    )
    return (
        f"{label}{machine['processor']}, {machine['isa']} kernels, {machine['threads']} threads, "
        f"torch {machine['torch']}, float32, {record['date'][:10]}, load {machine['load_average']} before; "
        f"{measured} (before / after)"
    )


def short_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Of each case how many times faster than eager torch, and how many times fewer bytes kept, a column a machine."""
    names = [f"{record['label'] or record['machine']['isa']}" for record in records]
    modes = ", ".join(MEMORY)
    lines = [["", *(f"time, {name}: {modes}" for name in names), f"bytes kept: {modes}"]]
    for case in records[0]["cases"]:
        same = [_case(record, case) for record in records]
        times = [", ".join(_speed_up(each, mode) for mode in MEMORY) if each else "not measured" for each in same]
        kept = ", ".join(_fewer(case, mode, "kept_bytes") for mode in MEMORY)
        lines.append([case["title"], *times, kept])
    return "\n".join([*_headings(records), _markdown(lines)])


def long_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Every contender of every case, the rows that lose among them; one table a machine."""
    return "\n\n".join(f"{heading(record)}\n\n{_markdown(_long(record))}" for record in records)


def _headings(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return [*(f"- {heading(record)}" for record in records), ""]


def _long(record: Mapping[str, Any]) -> list[list[str]]:
    lines = [["case", "contender", "step, ms (quartiles)", "eager / it (quartiles)", "GFLOP/s (of sgemm)", "kept, MB"]]
    lines[0] += ["eager / it", "peak, MB", "eager / it"]
    sgemm = record["roofline"]["before"]["gflops"]
    for case in record["cases"]:
        for name, facts in case["contenders"].items():
            low, median, high = (1e3 * each for each in quartiles(facts["seconds"]))
            rate = None if case["gflop"] is None else 1e3 * case["gflop"] / median
            lines.append(
                [
                    case["title"],
                    name,
                    f"{median:.4g} ({low:.4g} to {high:.4g})",
                    _spread(case, name),
                    "" if rate is None else f"{rate:.3g} ({rate / sgemm:.0%})",
                    f"{facts['kept_bytes'] / 1e6:.4g}",
                    _fewer(case, name, "kept_bytes"),
                    f"{facts['peak_bytes'] / 1e6:.4g}",
                    _fewer(case, name, "peak_bytes"),
                ]
            )
    return lines


def _case(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for case in record["cases"]:
        if (case["name"], case["settings"]) == (wanted["name"], wanted["settings"]):
            return case  # type: ignore[no-any-return]
    return None


def _ratios(case: Mapping[str, Any], name: str) -> dict[str, float]:
    contenders = case["contenders"]
    return ratios(contenders["eager"]["seconds"], contenders[name]["seconds"])


def _speed_up(case: Mapping[str, Any], name: str) -> str:
    return f"{_ratios(case, name)['median']:.2g}x"


def _spread(case: Mapping[str, Any], name: str) -> str:
    found = _ratios(case, name)
    return "" if name == "eager" else f"{found['median']:.3g} ({found['low']:.3g} to {found['high']:.3g})"


def _fewer(case: Mapping[str, Any], name: str, what: str) -> str:
    own = case["contenders"][name][what]
    return "" if name == "eager" or not own else f"{case['contenders']['eager'][what] / own:.2g}x"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---" if name in ("", "case", "contender") else "---:" for name in lines[0]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
