"""`fastdarts bench`: the suite as it stands in the README, on this machine; and two of its records side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_json
from fastdarts.cli.threads import openmps_own_turns
from fastdarts.errors import UserError
from fastdarts.reading import storage_errors

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ENVIRONMENTS", "bench"]

# What ATen, MKL and oneDNN must be told before torch is loaded, so that eager torch is held to the same instructions as
# the kernels. tests/machines.py runs the tests so; a test compares the two.
ENVIRONMENTS = {
    "base": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
_NAMES = {"base": "SSE", "avx2": "AVX2", "avx512": "AVX-512"}

Suite = Annotated[str, typer.Option(help="quick (4 minutes on two idle cores) or full (more rounds, torch.compile).")]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Of the suite this case: mixed-op, mixed-op-2, cell, darts, pc-darts, s2, s2-full. Repeatable."),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="torch.compile beside the others, for mixed-op and cell: minutes. (default: in the full suite)",
    ),
]
Isa = Annotated[
    str | None,
    typer.Option(help="Hold kernels, torch, MKL and oneDNN to older instructions: avx2 or base. The record says so."),
]
Threads = Annotated[int | None, typer.Option(help="CPU threads. (default: torch's)")]
Out = Annotated[Path | None, typer.Option(help="Write the record to this .json file.")]
Compared = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--compare", metavar="A.json B.json", help="Measure nothing: B beside A, case by case."),
]


def bench(
    suite: Suite = "quick",
    only: Only = None,
    compiled: Compile = None,
    isa: Isa = None,
    threads: Threads = None,
    out: Out = None,
    compared: Compared = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the engine against eager torch on this CPU: time and bytes of fixed cases, in the same run."""
    if compared is not None:
        if only or out or isa or threads is not None or compiled is not None:
            raise UserError("--compare measures nothing", "--compare A.json B.json, alone or with --json")
        return _compare(*compared, as_json)
    if out is not None and (out.exists() or not out.absolute().parent.is_dir()):
        raise UserError(f"{out} cannot be made", "a new file in a folder that exists")
    # Before torch is loaded: the profiler that counts peak bytes tells each start and stop of its own.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    if isa is not None:
        _hold(isa)
    import torch

    from fastdarts.bench import chosen, run_suite
    from fastdarts.cli.console import console

    if threads is not None:
        if not 1 <= threads <= options.MOST:
            raise UserError(f"{threads} threads", f"1 to {options.MOST}")
        torch.set_num_threads(threads)
    cases = chosen(only or [])
    say = console()
    with openmps_own_turns():
        record = run_suite(
            suite,
            cases,
            compiled=suite == "full" if compiled is None else compiled,
            label=_held() if isa is not None else "",
            say=lambda text: say.print(text, soft_wrap=True, markup=False, highlight=False),
        )
    if out is not None:
        with storage_errors(out):
            out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(record)
    else:
        _print(record)


def _hold(isa: str) -> None:
    """This process to older instructions; before torch is loaded, which reads the environment once."""
    import sys

    if isa not in ENVIRONMENTS:
        raise UserError(f"isa {isa!r}", f"one of {', '.join(ENVIRONMENTS)}", "without --isa the best is taken")
    if "torch" in sys.modules:
        remedy = "run fastdarts bench without FASTDARTS_IMPORT, in a process of its own"
        raise UserError("torch is loaded already and has chosen its instructions", remedy=remedy)
    os.environ.update(ENVIRONMENTS[isa])
    from fastdarts._backend import native

    core = native()
    if core is None or isa not in core.isas():
        raise UserError(f"{isa} kernels", f"what this core has: {', '.join(core.isas()) if core else 'no core'}")
    core.choose_isa(isa)
    import torch

    capability = torch.backends.cpu.get_cpu_capability().lower()
    if capability != ENVIRONMENTS[isa]["ATEN_CPU_CAPABILITY"]:
        raise UserError(f"torch runs with {capability} in spite of --isa {isa}", isa)


def _held() -> str:
    """What a held run is called: not the machine that it imitates."""
    from fastdarts._backend import native

    core = native()
    assert core is not None  # _hold has chosen its instructions
    own, best = core.isa(), core.isas()[-1]
    return "" if own == best else f"{_NAMES.get(own, own)} kernels on an {_NAMES.get(best, best)} machine"


def _plain_console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if Console().is_terminal else 140)


def _print(record: Mapping[str, Any]) -> None:
    from rich.table import Table

    from fastdarts.bench import heading
    from fastdarts.bench.record import quartiles
    from fastdarts.report.words import as_bytes

    out = _plain_console()
    out.print(heading(record).replace("**", ""), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("case", "contender", "step, ms", "eager / it", "quartiles", "kept", "peak"):
        table.add_column(name, justify="left" if name in ("case", "contender") else "right")
    for case in record["cases"]:
        for place, (name, facts) in enumerate(case["contenders"].items()):
            ratio = facts.get("eager_over_it")
            table.add_row(
                case["title"] if place == 0 else "",
                name,
                f"{1e3 * quartiles(facts['seconds'])[1]:.4g}",
                f"{ratio['median']:.3g}x" if ratio else "",
                f"{ratio['low']:.3g} to {ratio['high']:.3g}" if ratio else "",
                as_bytes(facts["kept_bytes"], 3),
                as_bytes(facts["peak_bytes"], 3),
            )
    out.print(table)
    load = record["machine"]["load_average"]
    if load > 1:
        out.print(f"note: the load was {load} at the start; these are no figures of an idle machine", soft_wrap=True)


def _compare(first: Path, second: Path, as_json: bool) -> None:
    from rich.table import Table

    from fastdarts.bench import compare, read
    from fastdarts.report.words import as_bytes

    found = compare(read(first), read(second))
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    columns = ("case", "contender", "A, ms", "B, ms", "B / A", "", "eager / it, A", "B", "", "kept, A", "B")
    for name in columns:
        table.add_column(name, justify="left" if name in ("case", "contender", "") else "right")
    for row in found["rows"]:
        speed = [f"{each:.3g}x" for each in row.get("speed_up", ())] or ["", ""]
        kept = [as_bytes(each, 3) for each in row["kept_bytes"]]
        times = [f"{1e3 * each:.4g}" for each in row["seconds"]]
        verdicts = row["time_verdict"], row.get("speed_up_verdict", "")
        table.add_row(
            row["case"], row["contender"], *times, f"{row['time']:.3g}", verdicts[0], *speed, verdicts[1], *kept
        )
    out = _plain_console()
    out.print(table)
    for name in found["left_out"]:
        out.print(f"not compared: {name}, which one of the two has not, or with other settings", soft_wrap=True)
    for note in found["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
