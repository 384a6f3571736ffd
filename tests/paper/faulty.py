"""Kernels and launches that a GPU would refuse, on the paper device: prints what it says of each, a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]
import paper_device
import torch
import triton
import triton.language as tl


@triton.jit
def twice(p_x, STRIDES: tl.constexpr):
    for i in tl.static_range(len(STRIDES)):
        STRIDE: tl.constexpr = STRIDES[i]
        tl.store(p_x + STRIDE, STRIDE)


@triton.jit
def nowhere(p_x, p_y, n):
    if n > 1:
        tl.store(p_y + 1, tl.load(p_x))


@triton.jit
def large(p_x, B: tl.constexpr):
    o = tl.arange(0, B)
    b_x = tl.load(p_x + o[:, None] * B + o[None, :])
    tl.store(p_x + o[:, None] * B + o[None, :], tl.dot(b_x, tl.trans(b_x), input_precision="tf32"))


@triton.jit
def plain(p_x, n, B: tl.constexpr):
    o = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(p_x + o, 1.0, mask=o < n)


def said(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> str:
    """The last line of what a launch ends with."""
    try:
        kernel[grid](*arguments, **options)
    except Exception as error:
        return (str(error).strip() or repr(error)).splitlines()[-1]
    return ""


def main() -> None:
    """Every fault, and launches that have none."""
    paper = paper_device.install(cuda=False)
    x = torch.zeros(64)
    found = {
        "one stride": said(twice, (1,), x, (1,)),
        "two strides": said(twice, (1,), x, (2, 1)),
        "a pointer": said(nowhere, (1,), x, x, 2),
        "no pointer": said(nowhere, (1,), x, None, 2),
        "shared memory": said(large, (1,), x, 256, num_warps=8),
        "threads": said(plain, (1,), x, 64, 4096, num_warps=64),
        "a row of blocks": said(plain, (70000,), x, 64, 64),
        "a column of blocks": said(plain, (1, 70000), x, 64, 64),
        "no blocks": said(plain, (0,), x, 64, 64),
        "a wide type": said(plain, (1,), x, 1 << 40, 64),
    }
    kernels = {each.kernel: each.shared for each in paper.compiled}
    print(json.dumps({"said": found, "launches": paper.launches(), "shared": kernels, "facts": paper.facts("plain")}))


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    main()
