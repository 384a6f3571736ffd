"""Compiles every Triton kernel that the other stages need, side by side: each cell of each network in a process' turn.

    python -m bench.gpu.warm --out results

A supernet meets some hundred compilations one after the other, a few seconds each; sixteen cores do them at once and
leave them in Triton's cache. What fails to compile or to run is a row with its error.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from bench.cases import MODES
from bench.gpu.models import Fused, Net, engines, net, precision, running
from bench.gpu.stage import Options, Stage, options, run

__all__ = ["main"]

Task = tuple[Net, int, str, str, str]


def tasks(options: Options) -> list[Task]:
    """The distinct cells: network, number, precision, backend, device; the slow ones first."""
    found = []
    for name in ("S2, 7 operators", "DARTS", "PC-DARTS"):
        given = net(name, options.toy)
        # The first cell of a width is a reduction but for the first of all, the one after it has a halved input.
        thirds = [given.layers // 3, 2 * given.layers // 3]
        cells = [0, 1, *(number + after for number in thirds for after in (0, 1, 2))]
        cells = sorted({number for number in cells if number < given.layers})
        for backend in engines(options):
            for dtype in ("fp32", "bf16"):
                found += [(given, number, dtype, backend, options.device.type) for number in cells]
    return found[:2] if options.toy else found


def warmed(task: Task) -> float:
    """Seconds of a cell's passes: every mode; with and without the weights' gradients."""
    given, number, dtype, backend, where = task
    device, start = torch.device(where), time.perf_counter()
    with running(backend):
        model = Fused(given, device, dtype=dtype).model
        cell = model.cells[number]
        side = given.side // 2 ** sum(each.reduction for each in list(model.cells)[:number])
        older = side * (2 if number and model.cells[number - 1].reduction else 1)
        inputs = [
            torch.randn(given.batch, channels, size, size, device=device, requires_grad=True)
            for channels, size in ((cell.c_prev_prev, older), (cell.c_prev, side))
        ]
        key, edges = given.searched.keys(given.layers)[number], model.edge_weights()
        mixing = model.mixing_weights()[key], None if edges is None else edges[key]
        for memory in MODES:
            cell.memory = memory
            for asked in ([*inputs, *model.arch_parameters()], [*inputs, *cell.parameters()]):
                with precision(dtype, device):
                    out = cell(*(each.contiguous(memory_format=torch.channels_last) for each in inputs), *mixing)
                torch.autograd.grad(out.float().square().mean(), asked, allow_unused=True, retain_graph=True)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> Stage:
    """Run every task, as many at once as there are cores."""
    given = options(arguments)
    stage = Stage("warm", given)
    work = tasks(given)

    def row(task: Task, result: Any) -> None:
        name = f"{task[0].name}, cell {task[1]}, {task[2]}, {task[3]}"
        stage.row(name, lambda: {"seconds": result()})

    if given.toy:
        for task in work:
            row(task, lambda task=task: warmed(task))
        return stage
    count = max(1, min(len(work), (os.cpu_count() or 2) - 2))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context) as pool:
        for task, future in [(task, pool.submit(warmed, task)) for task in work]:
            row(task, lambda future=future: future.result(timeout=max(1.0, stage.left)))
        pool.shutdown(wait=False, cancel_futures=True)
    return stage


if __name__ == "__main__":
    run(main)
