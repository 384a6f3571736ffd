"""augment on the CPU: the native pass against eager torch and torch.compile, on the shapes of a search.

    OMP_NUM_THREADS=2 python -m pytest bench/bench_augment.py --benchmark-group-by=param:batches

Each round draws another batch, as a search does: a repeated one would find its images in the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastdarts import use_backend
from fastdarts.ops import augment
from fastdarts.reference.augment import augment as reference

SHAPES = {
    "digits, batch 64": ((1797, 1, 8, 8), 64),
    "CIFAR-10, batch 96": ((50_000, 3, 32, 32), 96),
    "CIFAR-10, batch 256": ((50_000, 3, 32, 32), 256),
}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def batches(request: pytest.FixtureRequest) -> tuple[Callable[[], tuple[tuple[Tensor, ...], dict]], int]:
    shape, batch = SHAPES[request.param]
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    scale, shift = torch.full((shape[1],), 1 / 64.0), torch.full((shape[1],), -2.0)

    def next_batch() -> tuple[tuple[Tensor, ...], dict]:
        index = torch.randint(0, shape[0], (batch,), generator=draw)
        offset = torch.randint(-4, 5, (batch, 2), generator=draw)
        corner = torch.randint(0, shape[2], (batch, 2), generator=draw)
        cutout = torch.stack([corner, corner + shape[2] // 2], -1).flatten(1)
        return (images, index, offset, torch.rand(batch, generator=draw) < 0.5, cutout, scale, shift), {}

    moved = batch * images[0].numel() * (images.element_size() + scale.element_size())
    return next_batch, moved


# inductor, imported at the first compilation, still uses what torch itself has deprecated.
COMPILE = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is:DeprecationWarning")]


@pytest.mark.parametrize("how", ["cpu", "reference", pytest.param("compile", marks=COMPILE)])
def bench_augment(benchmark, batches, how: str) -> None:
    next_batch, moved = batches
    function = torch.compile(reference, dynamic=False) if how == "compile" else augment
    given, _ = next_batch()
    with use_backend("auto" if how == "compile" else how):
        torch.testing.assert_close(function(*given), reference(*given))
        benchmark.pedantic(function, setup=next_batch, rounds=200, warmup_rounds=10)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bytes": moved,
        "GB/s": moved / benchmark.stats.stats.median / 1e9,
    }
