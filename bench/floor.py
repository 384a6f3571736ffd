"""The least that a pass can cost: its work and its traffic by the plan, over the rates of bench/machine.py.

    OMP_NUM_THREADS=2 python -m bench.floor            # of every case, at the rates that are measured now

Work is that of `fastdarts.plan.flops` and of the preprocessing. Traffic counts each map that a call reads or writes
once for that call, in memory or in a cache alike; stem and classifier are left out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.machine import roofline
from fastdarts.nn import Cell, FactorizedReduce, Supernet
from fastdarts.nn.checks import halved
from fastdarts.plan import CellPlan, NodeStage, ValuesStage, Work, cell_plan, flops, schedule
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
    after = plan.mixed * n * halved(height, plan.stride) * halved(width, plan.stride)
    before, whole = plan.mixed * n * height * width, after * plan.partial
    elements = 0

    def source(state: int) -> int:
        return after if state >= plan.inputs else before

    def values(stage: ValuesStage) -> int:
        read = [source(state) for state in stage.first.sources]
        read += [source(each.source) for each in (*stage.reductions, *stage.pools)]
        made = len(stage.first.convolutions) + len(stage.reductions) + len(stage.second.convolutions)
        return sum(read) + after * (made + len(stage.second.sources))

    def mixed(node: NodeStage) -> int:
        return after * len(node.terms) + sum(plan.partial * source(edge.source) for edge in node.inputs)

    stages = schedule(plan, memory)
    for stage in stages.forward:
        elements += values(stage) if isinstance(stage, ValuesStage) else mixed(stage) + whole
    for node in stages.backward:
        shuffled = 2 * whole if plan.partial > 1 else whole
        elements += values(node.missing(memory)) + mixed(node) + shuffled
        # A second half reads g, y and its source, and writes the source's gradient.
        elements += 4 * after * len(node.second.convolutions)
        # A first half reads g and y; each of its sources is read once, and its gradient is read and written.
        elements += 2 * after * (len(node.first.convolutions) + len(node.reductions))
        elements += 3 * sum(source(state) for state in node.first.sources)
        elements += 3 * sum(source(each.source) for each in node.reductions)
        elements += whole + 3 * plan.partial * sum(source(edge.source) for edge in node.inputs)
    total = flops(plan, n, height, width, memory)
    return Cost(total.forward + total.backward, _FLOAT * elements)


def cell_cost(cell: Cell, partial: int, n: int, older: tuple[int, int], newer: tuple[int, int], memory: str) -> Cost:
    """The cost of a cell with its preprocessing; sizes of its two inputs, pixels."""
    plan = cell_plan(cell.space, cell.channels, partial=partial, reduction=cell.reduction)
    if plan is None:
        raise TypeError("no cost of a cell with candidates that have no fused kernel")
    inside = tuple(halved(size, 2) for size in older) if isinstance(cell.preprocess0, FactorizedReduce) else older
    total = plan_cost(plan, n, *newer, memory)
    for channels, before, after in ((cell.c_prev_prev, older, inside), (cell.c_prev, newer, newer)):
        given, made = n * channels * before[0] * before[1], n * cell.channels * after[0] * after[1]
        product = 3 * 2 * channels * made
        # Forward x, y, and y normalised in place; backward the two sums, then g, the value, x and its gradient.
        total += Cost(Work(0, product, 2 * given + 15 * made), _FLOAT * (given + 3 * made + 4 * made + 2 * given))
    return total


def supernet_cost(model: Supernet, n: int, height: int, width: int, memory: str) -> Cost:
    """The cost of a supernet; size of the images, pixels."""
    total = supernet_flops(model, n, height, width, memory=memory)
    if total is None:
        raise TypeError("no cost of a supernet with candidates that have no fused kernel")
    older = newer = (height, width)
    moved = 0
    for cell in model.cells:
        moved += cell_cost(cell, model.partial, n, older, newer, memory).bytes
        older, newer = newer, tuple(halved(size, 2) for size in newer) if cell.reduction else newer
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
