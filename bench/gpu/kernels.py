"""The launchers alone, on the shapes of the supernets: time, bytes, work, and the share of what the device can do.

    python -m bench.gpu.kernels --out results          # after bench.gpu.ceilings, whose rates the shares are of

`us` is one call with an L2 that holds nothing of it, `warm_us` the mean of ten in a row, both by graph replay; `bound`
is the larger of bytes over bandwidth, stencil work over the FMA rate and pointwise work over the matrix rate, and
`share` is that floor over the time. A step has its maps partly in the L2: its share lies between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.calls import supernet_calls
from bench.gpu.arguments import prepared
from bench.gpu.models import Net, net
from bench.gpu.record import lost
from bench.gpu.small import SMALL
from bench.gpu.stage import Options, Stage, options, run
from bench.gpu.timing import finite, replayed
from fastdarts.nn import Supernet
from fastdarts.ops._engine import launchers
from fastdarts.plan._calls import Call

__all__ = ["ASSUMED", "CELLS", "calls", "main", "measured"]

# Bytes a second, FMA and matrix rates in FLOP/s: datasheet and shared measurements, where no ceiling was measured.
ASSUMED = {"copy": 4.3e12, "fma": 67e12, "tf32": 395e12}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


# Of each network the cells whose calls are timed, the most important ones first, should the stage run out of time.
CELLS = (
    ("DARTS", 1),
    ("PC-DARTS", 1),
    ("S2, 7 operators", 1),
    ("DARTS", 4),
    ("DARTS", 7),
    ("PC-DARTS", 7),
    ("DARTS", 2),
)


def calls(given: Net, wanted: int) -> Iterator[tuple[str, Call]]:
    """Of one cell the largest call of each kind, under the cell's name."""
    shape = {"channels": given.channels, "layers": given.layers, "partial": given.partial}
    with torch.device("meta"):
        model = Supernet(given.searched, **shape)
    for number, cell, found in supernet_calls(model, given.batch, given.side, given.side):
        if number != wanted:
            continue
        largest: dict[tuple[str, bool], Call] = {}
        for call in (each for each in found if each.shapes is not None):
            key = call.op, getattr(call.shapes, "normalised", False) or call.what == "cell input"
            if key not in largest or call.bytes(1) > largest[key].bytes(1):
                largest[key] = call
        kind = "reduction" if cell.reduction else "normal"
        for call in largest.values():
            yield f"{given.name} cell {number}, {kind}, C' {cell.channels // given.partial}", call


def measured(call: Call, backend: str, dtype: str, given: Options, rates: dict[str, float]) -> dict[str, Any]:
    """One row: the call on a backend."""
    work = prepared(call, launchers(call.op.split(".")[0], backend), _DTYPES[dtype], given.device)
    found = replayed(work, given.device, rounds=1 if given.small else 20)
    bounds = floor(call, dtype, rates)
    bound = max(bounds, key=lambda name: bounds[name])
    seconds = found["us"] / 1e6
    moved = call.bytes(_DTYPES[dtype].itemsize)
    return found | {
        "bytes": moved,
        "flops": call.work.total,
        "stencil_flops": call.work.stencil,
        "pointwise_flops": call.work.pointwise,
        "gbs": moved / seconds / 1e9,
        "bandwidth_share": bounds["copy"] / seconds,
        "fma_share": bounds["fma"] / seconds,
        "bound": bound,
        "floor_us": bounds[bound] * 1e6,
        "share": bounds[bound] / seconds,
        "warm_share": bounds[bound] * 1e6 / found["warm_us"] if "warm_us" in found else None,
        "finite": finite(work()),
    }


def floor(call: Call, dtype: str, rates: dict[str, float]) -> dict[str, float]:
    """Seconds that each unit needs at least."""
    return {
        "copy": call.bytes(_DTYPES[dtype].itemsize) / rates["copy"],
        "fma": call.work.stencil / rates["fma"],
        "tf32": call.work.pointwise / rates["tf32"],
    }


def _difference(call: Call, backends: list[str], dtype: str, device: torch.device) -> dict[str, Any]:
    """How far the backends' results are from each other, relative to their norm."""
    first, second = (
        prepared(call, launchers(call.op.split(".")[0], name), _DTYPES[dtype], device)() for name in backends
    )
    pairs = [(a.double(), b.double()) for a, b in zip(first, second, strict=True)]
    apart = [_norm([a - b]) / max(_norm([b]), 1e-300) for a, b in pairs]
    return {"apart": max(apart, default=0.0)}


def _norm(tensors: list[Tensor]) -> float:
    return float(sum(each.square().sum() for each in tensors)) ** 0.5


def _small(given: Options, stage: Stage) -> None:
    """What works on coefficients and flat buffers: launch-bound, so that only the time counts."""
    for name, build in SMALL.items():

        def work(build: Callable[..., Callable[[], object]] = build) -> dict[str, Any]:
            return replayed(build(given), given.device, rounds=1 if given.small else 20)

        stage.row(name, work, op=name, dtype="", backend="")


def main(arguments: list[str] | None = None) -> Stage:
    """Time every call on every backend."""
    given = options(arguments)
    stage = Stage("kernels", given)
    found = {name: stage.rate(name, otherwise) for name, otherwise in ASSUMED.items()}
    rates = {name: rate for name, (rate, _) in found.items()}
    stage.row("rates", lambda: {"rates": rates, "measured": all(known for _, known in found.values())})
    backends = ["cuda", "triton"] if given.cuda else ["cpu", "triton"]
    _small(given, stage)
    for shape, number in CELLS[:2] if given.toy else CELLS:
        # An interpreted program takes milliseconds: the fewer pixels the better.
        chosen = replace(net(shape, given.toy), side=4) if given.toy else net(shape, False)
        for name, call in calls(chosen, number):
            # CUDA C++ is the stencil alone: what else that backend has is Triton's.
            own = backends if not given.cuda or call.op.startswith("stencil") else backends[1:]
            for dtype in ("fp32", "bf16"):
                rows = [
                    stage.row(
                        f"{name}, {call.op}, {call.what}, {dtype}, {backend}",
                        lambda call=call, backend=backend, dtype=dtype: measured(call, backend, dtype, given, rates),
                        shape=name,
                        op=call.op,
                        what=call.what,
                        dtype=dtype,
                        backend=backend,
                    )
                    for backend in own
                ]
                if len(rows) == 2 and not any(map(lost, rows)) and stage.left > 0:
                    stage.row(
                        f"{name}, {call.op}, {call.what}, {dtype}, apart",
                        lambda call=call, own=own, dtype=dtype: _difference(call, own, dtype, given.device),
                    )
    return stage


if __name__ == "__main__":
    run(main)
