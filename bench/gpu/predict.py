"""What a step should take on an H200, from the shapes alone: written before anything ran, and kept beside the result.

    python -m bench.gpu.predict            # the tables of docs/performance-engine.md

Each launcher's call takes the larger of its bytes and its arithmetic, at shares of the device's rates, and a fixed time
for each of its launches. Rates are an H200's: bandwidth as measured on such a machine, arithmetic from the datasheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from bench.calls import supernet_calls
from bench.gpu.models import NETS, Net
from fastdarts.nn import Supernet
from fastdarts.ops._records import edge_of
from fastdarts.plan._calls import Call
from fastdarts.plan._shapes import StencilShapes, SumShapes

__all__ = ["MODELS", "Model", "Total", "launches", "main", "network", "seconds", "total", "twice"]

BANDWIDTH, FMA, TF32 = 4.3e12, 67e12, 395e12
# Where TF32 is not allowed, a float32 product is three of TF32; maps in bfloat16 are multiplied once.
_PASSES = {4: 3, 2: 1}
# What a spatial tile has more of with its halo.
_HALO = 1.3

# Kernels that a call launches where their number is always the same: the pass over the maps, the fold of its sums.
_LAUNCHES = {
    "stencil.forward": 2,
    "mixed_sum.forward": 1,
    "mixed_sum.pool_moments": 2,
    "preprocess.forward": 2,
    "preprocess.normalise_": 1,
    "preprocess.reduce": 2,
    "preprocess.backward": 2,
}


@dataclass(frozen=True)
class Model:
    """What kernels are assumed to reach.

    Args:
        bandwidth, fma, tf32: shares of the device's rates.
        launch: seconds of a launch in a graph, with the waves that begin and end it.
    """

    bandwidth: float
    fma: float
    tf32: float
    launch: float


MODELS = {
    "floor": Model(1.0, 1.0, 1.0, 0.0),
    "CUDA C++": Model(0.75, 0.5, 0.35, 2.5e-6),
    "Triton": Model(0.65, 0.18, 0.2, 3.5e-6),
}


@dataclass
class Total:
    """Of some calls: how many, launches, elements read and written, and floating-point operations."""

    calls: int = 0
    launches: int = 0
    read: int = 0
    written: int = 0
    stencil: int = 0
    pointwise: int = 0

    def add(self, call: Call) -> None:
        """One call more."""
        self.calls += 1
        self.launches += launches(call)
        self.read += call.read + twice(call)
        self.written += call.written
        self.stencil += call.work.stencil
        self.pointwise += call.work.pointwise


def launches(call: Call) -> int:
    """Kernels that a call launches, as the launchers of backend `cuda` have it."""
    shapes = call.shapes
    if call.op == "stencil.backward" and isinstance(shapes, StencilShapes):
        # Gradients of the sources; those of the weights apart, with a fold; the fold of what a batch norm needs.
        return 1 + 2 * shapes.weights + shapes.normalised
    if isinstance(shapes, SumShapes) and call.op in ("mixed_sum.reduce", "mixed_sum.backward"):
        # Edges of one kind and size share a launch; terms, fold and the channels' order come on top in `reduce`.
        kinds = len({(edge_of(edge), source.height) for edge, source in zip(shapes.edges, shapes.sources, strict=True)})
        return kinds + (2 + (shapes.partial > 1) if call.op == "mixed_sum.reduce" else 0)
    return _LAUNCHES.get(call.op, 1)


def twice(call: Call) -> int:
    """Elements that a call reads a second time: the weights' gradients have a kernel of their own."""
    if call.op != "stencil.backward" or not isinstance(call.shapes, StencilShapes) or not call.shapes.weights:
        return 0
    return call.read - (call.written if call.shapes.add else 0)


def seconds(call: Call, itemsize: int, model: Model) -> float:
    """What a call is expected to take; `itemsize` bytes an element of its maps."""
    floor = model.launch == 0.0
    moved = (call.bytes(itemsize) + (0 if floor else itemsize * twice(call))) / (model.bandwidth * BANDWIDTH)
    products = call.work.pointwise * _PASSES[itemsize]
    if call.op == "stencil.backward" and not floor:
        # P^T dy on the halo of a spatial tile too, and once more for the weights' gradients.
        products *= (2 * _HALO + 1) / 2 if twice(call) else _HALO
    # Tensor cores and FMA units take turns: products need what the stencils of the same tile have left.
    arithmetic = call.work.stencil / (model.fma * FMA) + products / (model.tf32 * TF32)
    return max(moved, arithmetic) + launches(call) * model.launch


def total(calls: Iterable[Call]) -> Total:
    """Added up."""
    found = Total()
    for call in calls:
        found.add(call)
    return found


def network(given: Net, *, weights: bool = True, memory: str = "fast") -> Iterator[tuple[int, Call]]:
    """Number of the cell and each of its calls."""
    with torch.device("meta"):
        model = Supernet(given.searched, channels=given.channels, layers=given.layers, partial=given.partial)
    for number, _, calls in supernet_calls(model, given.batch, given.side, given.side, memory, weights=weights):
        yield from ((number, call) for call in calls)


def _ms(calls: list[Call], itemsize: int, model: str) -> float:
    return 1e3 * sum(seconds(call, itemsize, MODELS[model]) for call in calls)


def by_op(calls: list[Call]) -> list[str]:
    """Lines of the table of one cell's calls, added up by launcher."""
    lines = []
    for op in dict.fromkeys(call.op for call in calls):
        own = [call for call in calls if call.op == op]
        found = total(own)
        times = [1e3 * _ms(own, itemsize, model) for itemsize in (4, 2) for model in MODELS]
        cells = [
            f"`{op}`",
            str(found.calls),
            f"{4e-6 * found.read:.0f}",
            f"{4e-6 * found.written:.0f}",
            f"{found.stencil / 1e9:.2f}",
            f"{found.pointwise / 1e9:.2f}",
            *(f"{time:.0f}" for time in times),
            "not measured",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def steps() -> list[str]:
    """Lines of the table of whole steps: a weight pass and an architecture pass, cells alone."""
    lines = []
    for name, given in NETS.items():
        passes = [[call for _, call in network(given, weights=weights)] for weights in (True, False)]
        found = total(passes[0])
        for itemsize, dtype in ((4, "float32"), (2, "bfloat16")):
            moved = itemsize * (found.read + found.written) / 1e9
            times = [sum(_ms(calls, itemsize, model) for calls in passes) for model in MODELS]
            one = [_ms(passes[0], itemsize, model) for model in MODELS]
            cells = [name, dtype, str(found.launches), f"{moved:.1f}", f"{found.stencil / 1e9:.0f}"]
            cells += [f"{found.pointwise / 1e9:.0f}", *(f"{time:.1f}" for time in (*one, *times)), "not measured"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def modes() -> list[str]:
    """Lines of the table of memory modes: one step of DARTS in each."""
    lines = []
    for memory in ("fast", "balanced", "lean"):
        passes = [
            [call for _, call in network(NETS["DARTS"], weights=weights, memory=memory)] for weights in (True, False)
        ]
        found = total(passes[0])
        times = [sum(_ms(calls, itemsize, "CUDA C++") for calls in passes) for itemsize in (4, 2)]
        cells = [f"`{memory}`", str(found.launches), f"{4e-9 * (found.read + found.written):.1f}"]
        cells += [f"{found.stencil / 1e9:.0f}", *(f"{time:.1f}" for time in times), "not measured"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the tables."""
    columns = " | ".join(f"{dtype} {model}" for dtype in ("fp32", "bf16") for model in MODELS)
    for name, number in (("DARTS", 1), ("DARTS", 2), ("DARTS", 7), ("PC-DARTS", 1)):
        calls = [call for at, call in network(NETS[name]) if at == number]
        print(f"\n{name}, cell {number}, microseconds\n")
        print(f"| launcher | calls | MB read, fp32 | MB written | GFLOP stencil | pointwise | {columns} | measured |")
        print("| --- |" + " ---: |" * 11 + " --- |")
        print("\n".join(by_op(calls)))
    columns = " | ".join(f"{what}: {model}" for what in ("a pass", "a step") for model in MODELS)
    print(f"\n| net | maps | launches | GB | GFLOP stencil | pointwise | {columns} | measured |")
    print("| --- | --- |" + " ---: |" * 10 + " --- |")
    print("\n".join(steps()))
    print("\n| DARTS | launches of a pass | GB, float32 | GFLOP stencil | ms float32 | ms bfloat16 | measured |")
    print("| --- |" + " ---: |" * 5 + " --- |")
    print("\n".join(modes()))


if __name__ == "__main__":
    main()
