"""What the drop-in's promises cost: the look at every module, weights of their own, and a candidate that is called.

    OMP_NUM_THREADS=1 python -m bench.drop_in [rounds]

A first-order step (the alphas' gradient, then the weights' with clipping and SGD) of `compat.darts.Network`, on one
thread, in processor seconds, the least of some rounds, since the machine may have other work: as it is (`leaves`); with
its cells' weights stacked as `fastdarts.nn.Supernet` has them (`stacked`); with a hook on one operation of each cell
(`one hook`), and on the skip of each edge (`all skips`). Beside it what a look at all cells takes, and its share of the
step's two passes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastdarts.compat import darts
from fastdarts.nn.stack import Stack, StackedPart

__all__ = ["main"]

CASES = {
    "digits (C 8, 3 cells, batch 64, 8 x 8)": (8, 3, 64, 8),
    "papers' (C 16, 8 cells, batch 16, 32 x 32)": (16, 8, 16, 32),
}


def _network(channels: int, layers: int) -> darts.Network:
    torch.manual_seed(0)
    return darts.Network(channels, 10, layers, nn.CrossEntropyLoss())


def _stacked(model: darts.Network) -> darts.Network:
    for cell in model.cells:
        cell._stack = Stack([edge._ops for edge in cell._ops], [edge.source for edge in cell.space.edges])
        for index, edge in enumerate(cell._ops):
            edge.learn_in(StackedPart(cell._stack, index))
    return model


def _hooked(model: darts.Network, every: bool) -> darts.Network:
    for cell in model.cells:
        edges = cell._ops if every else [cell._ops[5]]
        for edge in edges:
            edge._ops[3 if every else 4].register_forward_hook(lambda *_: None)
    return model


def _step(model: darts.Network, images: Tensor, labels: Tensor) -> Callable[[], None]:
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4)

    def step() -> None:
        torch.autograd.grad(model._loss(images, labels), model.arch_parameters())
        model._loss(images, labels).backward()
        nn.utils.clip_grad_norm_(weights, 5)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _look(model: darts.Network) -> Callable[[], None]:
    def look() -> None:
        for cell in model.cells:
            cell._engine.survey(cell)
            for name in ("preprocess0", "preprocess1"):
                cell._engine.before(cell, name)

    return look


def _least(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: min(each[1:]) for name, each in times.items()}


def main(rounds: int = 5) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    for title, (channels, layers, batch, side) in CASES.items():
        images, labels = torch.randn(batch, 3, side, side), torch.arange(batch) % 10
        models = {
            "leaves": _network(channels, layers),
            "stacked": _stacked(_network(channels, layers)),
            "one hook": _hooked(_network(channels, layers), every=False),
            "all skips": _hooked(_network(channels, layers), every=True),
        }
        works = {name: _step(model, images, labels) for name, model in models.items()}
        found = _least(works, rounds)
        look = min(_least({"look": _look(models["leaves"])}, 50).values())
        print(title)
        for name, milliseconds in found.items():
            print(f"  {name:<10} {milliseconds:8.1f} ms  {milliseconds / found['stacked']:.3f} of stacked")
        print(f"  {'look':<10} {look:8.2f} ms  twice a step: {2 * look / found['leaves']:.2%} of it")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
