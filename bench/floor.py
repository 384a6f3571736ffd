"""The least that a pass can cost: its work and its traffic by the plan, over the rates of bench/machine.py.

    OMP_NUM_THREADS=2 python -m bench.floor            # of every case, at the rates that are measured now

Both are those of `fastdarts.plan.calls`. Traffic counts each map that a call reads or writes once for that call, in
memory or in a cache alike; stem and classifier are left out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.calls import cell_calls, supernet_calls
from bench.machine import roofline
from fastdarts.nn import Cell, Supernet
from fastdarts.plan import CellPlan, Work
from fastdarts.plan._calls import Call, calls
from fastdarts.profile.work import supernet_flops

__all__ = ["Cost", "cell_cost", "main", "plan_cost", "supernet_cost"]

_FLOAT = 4
# A vector unit does one addition or comparison in the time of a multiply-add, which counts as two.
_SLOTS = 2


@dataclass(frozen=True)
class Cost:
    """Of one forward and backward pass with all gradients, in float32.

    Args:
        work: floating-point operations, a multiply-add being two.
        bytes: read and written.
    """

    work: Work
    bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.work + other.work, self.bytes + other.bytes)

    def seconds(self, rates: Mapping[str, float]) -> tuple[float, float]:
        """Of arithmetic alone, and of traffic alone at the rate of a cache, by :func:`bench.machine.roofline`."""
        slots = self.work.stencil + self.work.pointwise + _SLOTS * self.work.elementwise
        return slots / rates["gflops"] / 1e9, self.bytes / rates["cache_gbs"] / 1e9


def plan_cost(plan: CellPlan, n: int, height: int, width: int, memory: str) -> Cost:
    """The cost of a mixed operation, or of a cell without its preprocessing; sizes of its inputs."""
    return _total(calls(plan, n, height, width, memory))


def cell_cost(cell: Cell, n: int, older: tuple[int, int], newer: tuple[int, int], memory: str) -> Cost:
    """The cost of a cell with its preprocessing; sizes of its two inputs, pixels."""
    return _total(cell_calls(cell, n, older, newer, memory))


def _total(found: Iterable[Call]) -> Cost:
    return sum((Cost(call.work, call.bytes(_FLOAT)) for call in found), Cost(Work(), 0))


def supernet_cost(model: Supernet, n: int, height: int, width: int, memory: str) -> Cost:
    """The cost of a supernet; size of the images, pixels."""
    total = supernet_flops(model, n, height, width, memory=memory)
    if total is None:
        raise TypeError("no cost of a supernet with candidates that have no fused kernel")
    moved = sum(_total(found).bytes for _, _, found in supernet_calls(model, n, height, width, memory))
    return Cost(total.forward + total.backward, moved)


def main() -> None:
    """Print the floor of every case in Markdown."""
    from bench import bench_cell, bench_mixed_op, bench_supernet

    rates = roofline()
    print(", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()), end="\n\n")
    print("| case | mode | stencil, pointwise, other: GFLOP | GB moved | arithmetic, ms | traffic, ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for case in [*bench_mixed_op.CASES, *bench_cell.CASES, *bench_supernet.CASES]:
        problem = case.build()
        for mode in case.modes:
            found = problem.cost(mode)
            work = ", ".join(
                f"{each / 1e9:.2f}" for each in (found.work.stencil, found.work.pointwise, found.work.elementwise)
            )
            arithmetic, traffic = (1e3 * seconds for seconds in found.seconds(rates))
            print(f"| {case.name} | {mode} | {work} | {found.bytes / 1e9:.2f} | {arithmetic:.3g} | {traffic:.3g} |")


if __name__ == "__main__":
    main()
