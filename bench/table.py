"""Markdown from pytest-benchmark's JSON: every figure of README and docs, and the rows that lose among them.

    python -m bench.table out.json [more.json ...]

Files of one machine; the turns of a contender are added up over all of them. Times are medians, with the 20th and the
80th percentile.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Row", "main", "markdown", "percentile", "rows_of"]

# Targets: at most so many times `fast`.
SLOWER = {"balanced": 1.3, "lean": 1.5}


@dataclass
class Row:
    """One contender of one case, its turns added up.

    Args:
        case: the case's name.
        contender: eager, compile, or a memory mode of fastdarts.
        seconds: all timed rounds.
        facts: what was recorded beside them.
    """

    case: str
    contender: str
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def rows_of(runs: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of all runs, in the order in which they were measured; benchmarks without contenders keep their name."""
    rows: dict[tuple[str, str], Row] = {}
    for run in runs:
        for each in run["benchmarks"]:
            facts = each["extra_info"]
            key = facts.get("case", each["name"]), facts.get("contender", "")
            row = rows.setdefault(key, Row(*key))
            row.seconds += each["stats"]["data"]
            row.facts |= facts
    return list(rows.values())


def percentile(values: list[float], share: float) -> float:
    """Linear between the two nearest of the sorted values; share from 0 to 1."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def markdown(runs: list[dict[str, Any]]) -> str:
    """The heading, the table of the cases, and the other benchmarks below."""
    rows = rows_of(runs)
    compared = [row for row in rows if row.contender]
    others = [row for row in rows if not row.contender]
    parts = [_heading(runs)]
    if compared:
        parts.append(_comparison(compared, runs[0]["machine_info"].get("fastdarts", {}).get("before", {})))
    if others:
        parts.append(_others(others))
    return "\n\n".join(parts) + "\n"


def _heading(runs: list[dict[str, Any]]) -> str:
    """Machine, versions, commit, command, roofline: of each run one line."""
    lines = []
    for run in runs:
        info, commit = run["machine_info"], run.get("commit_info", {})
        measured = info.get("fastdarts", {})
        before, after = measured.get("before", {}), measured.get("after", {})
        changed = "+changes" if commit.get("dirty") else ""
        lines.append(
            f"- {run['datetime'][:10]}, commit {str(commit.get('id', 'unknown'))[:9]}{changed}, "
            f"{info.get('cpu', {}).get('brand_raw', info.get('machine', ''))}, {before.get('threads', '?')} threads "
            f"on cores {before.get('affinity')}, {before.get('isa')}, torch {before.get('torch')}, "
            f"Python {info.get('python_version')}, load {before.get('load_average')} before and "
            f"{after.get('load_average')} after; {_roofline(before, after)}. `{_command(before)}`"
        )
    return "\n".join(lines)


def _command(before: dict[str, Any]) -> str:
    """What was typed, without the file that it wrote."""
    return re.sub(r"\s--benchmark-json[= ]\S+", "", str(before.get("command", "")))


def _roofline(before: dict[str, Any], after: dict[str, Any]) -> str:
    def both(name: str) -> str:
        return " / ".join(f"{each[name]:.0f}" for each in (before, after) if name in each)

    return (
        f"sgemm {both('gflops')} GFLOP/s, copy {both('cache_gbs')} GB/s in cache and {both('memory_gbs')} in memory "
        f"(before / after)"
    )


def _comparison(rows: list[Row], rates: dict[str, Any]) -> str:
    head = (
        "case",
        "contender",
        "time, ms (p20 to p80)",
        "eager / it",
        "it / fast",
        "GFLOP/s (of sgemm)",
        "GB/s (of cache)",
        "kept, MB",
        "eager / it",
        "peak, MB",
        "eager / it",
    )
    lines = [_line(head), _line(["---"] * 2 + ["---:"] * (len(head) - 2))]
    by_key = {(row.case, row.contender): row for row in rows}
    for row in rows:
        eager, fast = by_key.get((row.case, "eager")), by_key.get((row.case, "fast"))
        lines.append(_line(_cells(row, eager, fast, rates)))
    return "\n".join(lines) + "\n\n" + "\n".join(_remarks(by_key))


def _cells(row: Row, eager: Row | None, fast: Row | None, rates: dict[str, Any]) -> list[str]:
    low, high = (1e3 * percentile(row.seconds, share) for share in (0.2, 0.8))
    targets = row.facts.get("targets", {})
    time = targets.get("time") if row.contender == "fast" else None
    kept = targets.get("kept", {}).get(row.contender)
    slower = SLOWER.get(row.contender)
    return [
        row.case,
        row.contender,
        f"{1e3 * row.median:.4g} ({low:.4g} to {high:.4g})",
        _ratio(eager.median if eager else None, row.median, least=time[0] if time else None),
        _ratio(row.median, fast.median if fast and slower else None, most=slower),
        _rate(row, "flops", rates.get("gflops")),
        _rate(row, "moved_bytes", rates.get("cache_gbs")),
        _megabytes(row, "kept_bytes"),
        _ratio(eager and eager.facts.get("kept_bytes"), row.facts.get("kept_bytes"), least=kept),
        _megabytes(row, "peak_bytes"),
        _ratio(eager and eager.facts.get("peak_bytes"), row.facts.get("peak_bytes")),
    ]


def _ratio(top: float | None, bottom: float | None, *, least: float | None = None, most: float | None = None) -> str:
    """top / bottom, and whether it is what was asked for."""
    if not top or not bottom:
        return ""
    ratio = top / bottom
    shown = f"{ratio:.3g}"
    if least is not None:
        return f"{shown} ({'at least' if ratio >= least else '**missed**:'} {least})"
    if most is not None:
        return f"{shown} ({'at most' if ratio <= most else '**missed**:'} {most})"
    return shown


def _remarks(rows: dict[tuple[str, str], Row]) -> list[str]:
    """What has no column: torch.compile against fast, and how long it compiled."""
    lines = []
    for (case, contender), row in rows.items():
        if contender == "compile":
            fast = rows.get((case, "fast"))
            seconds = row.facts.get("compile_seconds", float("nan"))
            against = _ratio(row.median, fast.median if fast else None, least=row.facts["targets"].get("compile"))
            lines.append(f"{case}: `torch.compile` compiled for {seconds:.0f} s; its time / fast is {against}.")
    return lines


def _rate(row: Row, name: str, most: float | None) -> str:
    """Of what the plan counts, in 1e9 a second, and its share of what the machine was measured to do."""
    if name not in row.facts:
        return ""
    rate = row.facts[name] / row.median / 1e9
    return f"{rate:.3g} ({rate / most:.0%})" if most else f"{rate:.3g}"


def _megabytes(row: Row, name: str) -> str:
    value = row.facts.get(name)
    return "" if value is None else f"{value / 1e6:.4g}"


def _others(rows: list[Row]) -> str:
    """Benchmarks of single ops: the figures that they record are shown under their own names."""
    lines = [_line(["benchmark", "time, us (p20 to p80)", "recorded"]), _line(["---", "---:", "---"])]
    for row in rows:
        low, high = (1e6 * percentile(row.seconds, share) for share in (0.2, 0.8))
        recorded = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.facts.items()
        )
        lines.append(_line([row.case, f"{1e6 * row.median:.4g} ({low:.4g} to {high:.4g})", recorded]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(paths: list[str]) -> None:
    """Print the table of these files."""
    if not paths:
        sys.exit("python -m bench.table: no file of --benchmark-json given")
    print(markdown([json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
