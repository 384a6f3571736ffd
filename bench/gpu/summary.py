"""The last table: every figure that is asked for, beside what is asked, and the kernels' shares.

    python -m bench.gpu.summary A/rows.jsonl B/rows.jsonl

Takes records (rows.jsonl), folders of them, or files that this has merged; later ones replace the rows of earlier ones.
Writes `gpu.json`, all stages in one, and `table.md` beside the first. A record may end anywhere: a row that had begun
counts as lost.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.gpu import record
from bench.gpu.record import Row

__all__ = ["Figure", "figures", "main", "markdown", "merged"]

Stages = dict[str, dict[str, Any]]
_GB = 1e9
# Kernels that take most of a step; their share of the roofline is a target.
_MAIN = ("stencil.forward", "stencil.backward", "mixed_sum.forward", "mixed_sum.reduce", "mixed_sum.backward")


class Figure:
    """One line of the table.

    Args:
        name: what is measured.
        value: None where it was not.
        least, aim: the targets; None for none.
        unit: of all three.
        lower: whether less is better.
        more: what else is worth knowing.
    """

    def __init__(
        self,
        name: str,
        value: float | None,
        least: float | None,
        aim: float | None,
        unit: str = "x",
        *,
        lower: bool = False,
        more: str = "",
    ) -> None:
        self.name, self.value, self.least, self.aim = name, value, least, aim
        self.unit, self.lower, self.more = unit, lower, more

    def met(self, target: float | None) -> bool | None:
        """Whether a target is reached; None where there is none, or no value."""
        if self.value is None or target is None:
            return None
        return self.value <= target if self.lower else self.value >= target

    def cells(self) -> list[str]:
        """Name, value, both targets, verdict, remark."""
        reached = {None: "", True: "at least", False: "**missed**"}[self.met(self.least)]
        if self.least is None and self.met(self.aim) is False:
            reached = "not the aim"
        shown = [self._shown(self.value), self._target(self.least), self._target(self.aim)]
        return [self.name, *shown, "aim" if self.met(self.aim) else reached, self.more]

    def _shown(self, value: float | None) -> str:
        return "not measured" if value is None else f"{value:.3g} {self.unit}".replace(" x", "x")

    def _target(self, value: float | None) -> str:
        return "" if value is None else f"{'under ' if self.lower else ''}{self._shown(value)}"


def merged(paths: Iterable[Path]) -> Stages:
    """The stages of records and files; of a row that stands in several, the last measured one."""
    stages: Stages = {}
    for path in paths:
        path = path / record.NAME if path.is_dir() else path
        for name, stage in _stages(path).items():
            own = stages.setdefault(name, {**stage, "rows": []})
            rows = {row["name"]: row for row in own["rows"]}
            for row in stage["rows"]:
                if not _failed(row) or _failed(rows.get(row["name"], row)):
                    rows[row["name"]] = row
            stages[name] = {**stage, "rows": list(rows.values())}
    return stages


def _stages(path: Path) -> Stages:
    """The stages of one record, or of a file of merged ones."""
    if path.suffix != ".jsonl":
        found: Stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        return found
    found, ended = {}, set()
    begun: dict[tuple[str, str], Row] = {}
    for line in record.lines(path):
        if "stage" not in line:
            continue
        stage = found.setdefault(line["stage"], {"rows": []})
        if "machine" in line:
            stage |= {key: line[key] for key in ("machine", "toy", "paper")}
        elif "begun" in line:
            begun.setdefault((line["stage"], line["begun"]), {}).update(line.get("so_far", {}))
        elif "row" in line:
            stage["rows"].append(line["row"])
            ended.add((line["stage"], line["row"]["name"]))
    for (name, row), so_far in begun.items():
        if (name, row) not in ended:
            found[name]["rows"].append({"name": row, "error": "its process ended before it did", **so_far})
    return found


def _failed(row: Row) -> bool:
    return record.lost(row) or "skipped" in row


def figures(stages: Stages) -> list[Figure]:
    """The table of targets."""
    return [*_steps(stages), *_memory(stages), *_searches(stages), *_kernels(stages), *_mixed_op(stages)]


def _rows(stages: Stages, stage: str, **facts: Any) -> list[Row]:
    return [row for row in stages.get(stage, {}).get("rows", []) if all(row.get(k) == v for k, v in facts.items())]


def _least(rows: Iterable[Row], *keys: str) -> float | None:
    """The smallest of some values of some rows."""
    found = [row[key] for row in rows for key in keys if row.get(key)]
    return min(found, default=None)


def _ratio(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top and bottom else None


def _steps(stages: Stages) -> list[Figure]:
    targets = {
        ("DARTS", "fp32"): (12.0, 25.0, 7.5),
        ("DARTS", "bf16"): (18.0, 36.0, 5.0),
        ("PC-DARTS", "fp32"): (18.0, 44.0, 10.0),
        ("PC-DARTS", "bf16"): (None, None, 6.0),
    }
    found = []
    for (net, dtype), (least, aim, milliseconds) in targets.items():
        every = _rows(stages, "steps", net=net, dtype=dtype, what="eager")
        graphs = _least([row for row in every if row.get("graph")], "ms", "lean_ms")
        eager = [row for row in every if not row.get("graph")]
        best, papers = _least(eager, "ms", "lean_ms"), _least(eager, "ms")
        ours = _least(_rows(stages, "steps", net=net, dtype=dtype, what="step, graph", memory="fast"), "ms")
        more = f"eager {best:.4g} ms, as the papers step {papers:.4g}" if best and papers else ""
        name = f"{net} step, {dtype}"
        found.append(Figure(f"{name}: eager / fastdarts", _ratio(best, ours), least, aim, more=more))
        if dtype == "fp32":
            like = _least(_rows(stages, "steps", net=net, dtype=dtype, what="step, graph, TF32"), "ms")
            why = "like for like: eager's convolutions are TF32"
            found.append(Figure(f"{name}, TF32: eager / fastdarts", _ratio(best, like), least, aim, more=why))
            strict = _least(_rows(stages, "steps", net=net, dtype=dtype, what="eager, no TF32"), "ms", "lean_ms")
            why = "neither rounds to TF32"
            found.append(Figure(f"{name}, eager without TF32 / fastdarts", _ratio(strict, ours), None, None, more=why))
        found.append(Figure(f"{name}: eager in a CUDA graph / fastdarts", _ratio(graphs, ours), None, None))
        found.append(Figure(name, ours, None, milliseconds, "ms", lower=True))
        compiled = _least(_rows(stages, "compiled", net=net, dtype=dtype, what="compile"), "ms")
        if net == "DARTS":
            ratio = _ratio(2 * compiled if compiled else None, ours)
            why = "2 passes by compile, no optimiser" if compiled else _why(stages, net, dtype)
            found.append(Figure(f"{name}: torch.compile / fastdarts", ratio, 4.0, 10.0, more=why))
    for dtype in ("fp32", "bf16"):
        rows = _rows(stages, "compiled", net="DARTS, 1 cell", dtype=dtype)
        ours = _least([row for row in rows if row.get("what") not in ("eager", "compile")], "ms")
        ratio = _ratio(_least([row for row in rows if row.get("what") == "compile"], "ms"), ours)
        why = _why(stages, "DARTS, 1 cell", dtype)
        found.append(Figure(f"one cell, {dtype}: torch.compile / fastdarts, passes", ratio, 4.0, 10.0, more=why))
    return found


def _why(stages: Stages, net: str, dtype: str) -> str:
    rows = _rows(stages, "compiled", net=net, dtype=dtype, what="compile")
    reasons = [row.get("not_measured", "") for row in rows]
    return next((reason for reason in reasons if reason), "")


def _memory(stages: Stages) -> list[Figure]:
    def peak(net: str, dtype: str, **facts: Any) -> float | None:
        return _least(_rows(stages, "memory", net=net, dtype=dtype, **facts), "peak_bytes")

    eager = peak("DARTS", "fp32", what="eager")
    found = []
    for memory, least, aim in (("fast", 4.0, None), ("balanced", 9.0, None), ("lean", 12.0, 20.0)):
        own = peak("DARTS", "fp32", memory=memory)
        more = f"{eager / _GB:.3g} GB / {own / _GB:.3g} GB" if eager and own else ""
        found.append(Figure(f"DARTS peak, {memory}: eager / fastdarts", _ratio(eager, own), least, aim, more=more))
    own = peak("DARTS", "bf16", memory="lean")
    found.append(Figure("DARTS peak, lean in bf16: eager fp32 / fastdarts", _ratio(eager, own), None, 40.0))
    for memory, aim in (("fast", None), ("balanced", None), ("lean", 1.5)):
        own = peak("S2, 7 operators", "fp32", memory=memory)
        whole = peak("S2, 7 operators", "fp32", what="eager")
        more = f"eager {whole / _GB:.3g} GB" if whole else ""
        value = own / _GB if own else None
        found.append(Figure(f"S2, 7 operators, peak, {memory}", value, 8.0, aim, "GB", lower=True, more=more))
    return found


def _searches(stages: Stages) -> list[Figure]:
    found = []
    for net, least, aim in (("PC-DARTS", 3.0, 1.0), ("DARTS", 8.0, 3.0)):
        rows = _rows(stages, "epochs", net=net)
        whole = [row for row in rows if row.get("whole") and "fifty_seconds" in row]
        seconds = _least(whole or rows, "fifty_seconds")
        how = "by the clock" if whole else "from 4 epochs" if seconds else ""
        minutes = seconds / 60 if seconds else None
        found.append(Figure(f"{net}, 50 epochs", minutes, least, aim, "min", lower=True, more=how))
        step = _least(_rows(stages, "steps", net=net, dtype="fp32", what="step, graph", memory="fast"), "ms")
        few = [row for row in rows if "epoch_seconds" in row and "steps" in row]
        if step and few:
            outside = 1.0 - step * few[-1]["steps"] / 1e3 / few[-1]["epoch_seconds"][-1]
            name = f"{net}, an epoch's time outside of its steps' graphs"
            found.append(Figure(name, 100 * outside, 5.0, None, "%", lower=True, more="evaluation counts as outside"))
    return found


def _kernels(stages: Stages) -> list[Figure]:
    """The smallest share of the roofline among the main kernels' calls, each by its better backend."""
    found = []
    for shape in ("DARTS cell 1", "PC-DARTS cell 1"):
        for dtype in ("fp32", "bf16"):
            best: dict[str, float] = {}
            for row in _rows(stages, "kernels", dtype=dtype):
                if str(row.get("shape", "")).startswith(f"{shape},") and row.get("op") in _MAIN and "share" in row:
                    call = f"{row['op']} ({row['what']})"
                    best[call] = max(best.get(call, 0.0), row["share"])
            lowest = min(best, key=lambda call: best[call], default="")
            value = 100 * best[lowest] if best else None
            found.append(Figure(f"{shape}, {dtype}: least share of the roofline", value, 40.0, 70.0, "%", more=lowest))
    return found


def _mixed_op(stages: Stages) -> list[Figure]:
    found = []
    shapes = list(dict.fromkeys(row["shape"] for row in _rows(stages, "mixed_op")))
    for shape in shapes or ["DARTS, C 16, 32x32, batch 64"]:
        for dtype in ("fp32", "bf16"):
            rows = _rows(stages, "mixed_op", shape=shape, dtype=dtype)
            eager, ours = (_least([row for row in rows if row["what"] == what], "ms") for what in ("eager", "fused"))
            found.append(Figure(f"MixedOp, {shape}, {dtype}: eager / fastdarts", _ratio(eager, ours), 3.0, 8.0))
    return found


def markdown(stages: Stages, *, short: bool = False) -> str:
    """What is right, the table, the ceilings, the kernels (`short`: the main ones), and what went wrong."""
    parts = [_machine(stages), *_checked(stages)]
    head = ("figure", "measured", "at least", "aim", "reached", "")
    parts.append(_table(head, (figure.cells() for figure in figures(stages))))
    ceilings = [row for row in _rows(stages, "ceilings") if "value" in row]
    if ceilings:
        parts.append("; ".join(f"{row['name']} {_engineering(row['value'])}{row['unit']}" for row in ceilings))
    kernels = [row for row in _rows(stages, "kernels") if "us" in row and not (short and _small(row))]
    if kernels:
        names = ("call", "maps", "backend", "us", "warm us", "MB", "GB/s", "FMA share", "bound", "share")
        parts.append(_table(names, map(_kernel, kernels)))
    counted = [row for row in _rows(stages, "counters") if "metrics" in row]
    if counted:
        keys = list(dict.fromkeys(key for row in counted for key in row["metrics"]))
        lines = ([row["name"], *(f"{row['metrics'].get(key, math.nan):.4g}" for key in keys)] for row in counted)
        parts.append(_table(("kernel, by its counters", *keys), lines))
    wrong = [
        f"- {name}, {row['name']}: {row.get('error') or row.get('not_live') or row['skipped']}"
        for name, stage in stages.items()
        for row in stage["rows"]
        if _failed(row)
    ]
    if wrong:
        most = 12 if short else len(wrong)
        shown = wrong[:most] + ([f"- and {len(wrong) - most} more"] if len(wrong) > most else [])
        parts.append("Rows without a figure:\n\n" + "\n".join(shown))
    return "\n\n".join(parts) + "\n"


def _checked(stages: Stages) -> list[str]:
    """What was found right: the checks against the reference, and the tests."""
    found = []
    parity = [row for row in _rows(stages, "parity") if not _failed(row) and "not_measured" not in row]
    if parity:
        found.append("As the reference: " + "; ".join(row["name"] for row in parity))
    tests = _rows(stages, "tests")
    ends = [row["outcome"] for row in tests if "outcome" in row]
    if ends:
        counts = ", ".join(f"{ends.count(end)} {end}" for end in ("passed", "failed", "skipped") if end in ends)
        found.append(f"GPU tests: {counts}")
    return found


def _small(row: Row) -> bool:
    """Whether a call is left out of the short table."""
    return row.get("op") not in _MAIN or "DARTS cell 1," not in row.get("shape", "")


def _kernel(row: Row) -> list[str]:
    name = f"{row.get('shape', '').split(',')[0]} {row.get('op', '')} {row.get('what', '')}".strip()
    times = f"{row['us']:.1f}", f"{row.get('warm_us', math.nan):.1f}"
    backend = row.get("backend", "") + (" (no graph)" if "uncaptured" in row else "")
    cells = [name, row.get("dtype", ""), backend, *times]
    if "share" not in row:
        return [*cells, *[""] * 5]
    cells += [f"{row['bytes'] / 1e6:.0f}", f"{row['gbs']:.0f}", f"{row['fma_share']:.0%}", row["bound"]]
    return [*cells, f"{row['share']:.0%}"]


def _machine(stages: Stages) -> str:
    lines = []
    for name, stage in stages.items():
        at = stage["machine"]
        toy = (" TOY SIZES" if stage.get("toy") else "") + (" ON PAPER: no figure" if stage.get("paper") else "")
        where = f"{at['date']}, commit {at['commit']}, {at['device']}"
        versions = f"torch {at['torch']}, triton {at['triton']}, Python {at['python']}"
        lines.append(f"- {name}: {where}, {versions}{toy}. `{at['command']}`")
    return "\n".join(lines)


def _engineering(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1.0, ""), (1e-6, "u")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    line: Callable[[Iterable[str]], str] = lambda cells: "| " + " | ".join(cells) + " |"  # noqa: E731
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def main(arguments: list[str]) -> None:
    """Merge, write and print; `--short` prints less."""
    short = "--short" in arguments
    arguments = [each for each in arguments if each != "--short"]
    if not arguments:
        sys.exit("python -m bench.gpu.summary: no record, and no folder of one, given")
    paths = [Path(each) for each in arguments]
    missing = [path for path in paths if not (path / record.NAME if path.is_dir() else path).exists()]
    if missing:
        sys.exit(f"{missing[0]}: no such record")
    stages = merged(paths)
    text = markdown(stages)
    folder = paths[0] if paths[0].is_dir() else paths[0].parent
    (folder / "gpu.json").write_text(json.dumps({"stages": stages}, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(markdown(stages, short=True) if short else text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
