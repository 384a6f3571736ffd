"""Every launch of the networks' steps and of the test plans, on the paper device: a process of its own.

    python tests/paper_steps.py --stages kinds                  # what the suite runs
    python tests/paper_steps.py --stages binary --nets DARTS    # ptxas and the launcher, part of `make paper`

Prints a line of JSON a case: launches by kernel, what was compiled, what failed; ends with 1 where something did.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]  # bench; tests/ is there as the script's own folder
import paper_device
import torch

from fastdarts import use_backend

__all__ = ["main"]

BACKENDS, DTYPES, MODES = ("triton", "cuda"), ("fp32", "bf16"), ("fast", "balanced", "lean")
PLAN_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
EVALUATION = "running statistics"
EVERY_DTYPE = ("normal", "partial reduction")
Case = tuple[str, Callable[[], object]]


def nets(names: list[str], given: argparse.Namespace) -> Iterator[Case]:
    """A step of both levels, and passes in the memory modes that it does not run in; at full size: nothing is computed.

    Backend cuda has its own kernels for convolutions alone, in every mode the same ones: a step shows them.
    """
    from bench.gpu.models import NETS, Fused, precision, running
    from fastdarts.search._unattended import UnattendedStep
    from fastdarts.search.choices import Choices

    cpu = torch.device("cpu")

    @functools.cache
    def model(name: str) -> Fused:
        return Fused(replace(NETS[name], layers=given.layers or NETS[name].layers), cpu)

    def passes(name: str, backend: str, dtype: str, memory: str) -> None:
        chosen = model(name)
        chosen.dtype = dtype
        for cell in chosen.model.cells:
            cell.memory = memory
        with running(backend):
            chosen.passes()

    def step(name: str, backend: str, dtype: str) -> None:
        chosen, choices = model(name), Choices()
        for cell in chosen.model.cells:
            cell.memory = MODES[0]
        with running(backend), precision(dtype, cpu):
            taken = UnattendedStep(chosen.model, chosen.config, choices.relaxation, choices.perturbation)
            batch = chosen.images, chosen.labels
            taken(batch, batch, torch.zeros((), dtype=torch.float64))

    for name in names:
        for dtype in given.dtypes or DTYPES:
            for memory in MODES[1:] if "triton" in given.backends else ():
                case = name, "triton", dtype, memory
                yield f"{name}, triton, {dtype}, {memory}", lambda a=case: passes(*a)
            for backend in given.backends:
                yield f"{name}, {backend}, {dtype}, step", lambda a=(name, backend, dtype): step(*a)


def plans(names: list[str], given: argparse.Namespace) -> Iterator[Case]:
    """Forward and backward of the test plans in every memory mode and with running statistics, some in every dtype."""
    from cell_oracle import PLANS, given_for, outcome

    from fastdarts.ops.cell import cell

    known = PLANS | moved()

    def passes(name: str, backend: str, dtype: str, memory: str) -> None:
        plan, shape = known[name]
        with use_backend(backend):
            case = given_for(plan, *shape, training=memory != EVALUATION)
            outcome(cell, case, PLAN_DTYPES[dtype], memory=MODES[0] if memory == EVALUATION else memory)

    for name in names or known:
        every = PLAN_DTYPES if given.stages != "kinds" or name in EVERY_DTYPE else ("fp32",)
        for backend in given.backends:
            for dtype in given.dtypes or every:
                for memory in (*MODES, EVALUATION) if backend == "triton" else MODES[:1]:
                    case = name, backend, dtype, memory
                    yield f"plan {name}, {backend}, {dtype}, {memory}", lambda a=case: passes(*a)


def moved() -> dict[str, Any]:
    """Reduction cells that only move bytes: their kernels are compiled in a second each."""
    from fastdarts.plan import cell_plan
    from fastdarts.spaces import define_space

    space = define_space("moved", ("max_pool_3x3", "avg_pool_3x3", "skip_connect"), nodes=2, layers=3).normal
    return {
        f"moved, K {partial}": (cell_plan(space, 4 * partial, partial=partial, reduction=True), (2, 6, 5))
        for partial in (1, 4)
    }


def data() -> Iterator[Case]:
    """A batch's augmentation."""
    from fastdarts.ops import augment

    def augmented(images: torch.Tensor) -> None:
        zeros = torch.zeros(64, 4, dtype=torch.int64)
        with use_backend("triton"):
            augment(images, zeros[:, 0], zeros[:, :2], zeros[:, 0] > 0, zeros, torch.ones(3), torch.zeros(3))

    for images in (torch.zeros(256, 3, 32, 32), torch.zeros(256, 3, 32, 32, dtype=torch.uint8)):
        yield f"augment, {images.dtype}", lambda a=images: augmented(a)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """All that are asked for."""
    yield from nets(given.nets, given)
    if given.plans is not None:
        yield from plans(given.plans, given)
    if given.plans == []:
        yield from data()


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Of the command line."""
    from bench.gpu.models import NETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", choices=("binary", "front", "kinds"), default="kinds")
    parser.add_argument("--nets", nargs="*", default=list(NETS), metavar="NET", help="of bench/gpu/models.py")
    parser.add_argument("--plans", nargs="*", metavar="PLAN", help="of tests/cell_oracle.py; without a name: all")
    parser.add_argument("--dtypes", nargs="*", choices=PLAN_DTYPES, help="of maps; otherwise all that are searched with")
    parser.add_argument("--backends", nargs="*", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--layers", type=int, default=0, help="cells of the networks; 0 for their own number")
    parser.add_argument("--no-launcher", action="store_true", help="check grids without Triton's C launcher")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print them, and say whether something failed."""
    given = options(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    cuda = "cuda" in given.backends
    paper = paper_device.install(given.stages, keep_going=True, launcher=not given.no_launcher, cuda=cuda)
    import triton

    say({"triton": triton.__version__, "torch": torch.__version__, "python": sys.version.split()[0]})
    total: Counter[str] = Counter()
    for name, work in cases(given):
        paper.forget()
        start = time.process_time()
        error = ""
        try:
            work()
        except RuntimeError as raised:  # what the paper device refuses at a launch
            error = str(raised)
        row: dict[str, Any] = {"case": name, "launches": sum(paper.launches().values()), "kernels": paper.launches()}
        new = [each for each in paper.compiled if not each.cached]
        row |= {"compiled": len(new), "cached": len(paper.compiled) - len(new), "left": paper.left}
        row |= {"shared": max((each.shared for each in paper.compiled), default=0)}
        row |= {"failed": sorted({str(each) for each in paper.failed} | ({error} if error else set()))}
        row |= {"seconds": round(time.process_time() - start, 1)}
        say(row)
        total.update({key: row[key] for key in ("launches", "compiled", "cached", "left", "seconds")})
        total["failed"] += len(row["failed"])
    say({"total": dict(total)})
    return int(total["failed"] > 0)


def say(row: dict[str, Any]) -> None:
    """A line."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.exit(main())
