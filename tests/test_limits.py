"""What a GPU's kernels cannot count is refused by every op, before anything is allocated; a CPU's take it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cell_oracle import DARTS, planned
from cuda_shim import shim
from torch import Tensor

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops.cell import cell
from fastdarts.ops.mixed_sum import Edge, mixed_sum, pool_moments
from fastdarts.ops.preprocess import preprocess
from fastdarts.ops.stencil import stencil
from fastdarts.plan import cell_plan
from fastdarts.reference.stencil import Conv

# Images, pixels in all, elements of an image: one too many of each.
TOO_LARGE = [(65536, 4, 2, 2), (65535, 4, 129, 128), (1, 4, 8192, 4097)]


def wide(*shape: int) -> Tensor:
    """A map of one element's memory."""
    return torch.zeros(()).expand(shape)


def by_cell(x: Tensor) -> object:
    plan = planned(cell_plan(DARTS, 4))
    return cell([x, x], torch.zeros(14, 8), [torch.zeros(shape) for *_, shape in plan.parameters], plan)


def by_mixed_sum(x: Tensor) -> object:
    terms, edges = torch.zeros(1, 4), torch.zeros(1, 2, 4)
    return mixed_sum([x], torch.zeros(1), terms, terms, [x], [Edge(1, True, True, True)], edges[..., :3], edges, edges)


def by_stencil(x: Tensor) -> object:
    return stencil([x], [Conv(0, 3, 1, 1)], [torch.zeros(4, 1, 3, 3)], [torch.zeros(4, 4, 1, 1)])


OPS: dict[str, Callable[[Tensor], object]] = {
    "cell": by_cell,
    "mixed_sum": by_mixed_sum,
    "pool_moments": lambda x: pool_moments(x, 1, max_pool=True, avg_pool=True),
    "preprocess": lambda x: preprocess(x, [torch.zeros(4, 4, 1, 1)], stride=1),
    "stencil": by_stencil,
}


@pytest.mark.parametrize("shape", TOO_LARGE, ids=["images", "pixels", "elements"])
@pytest.mark.parametrize("op", list(OPS))
def test_a_map_that_is_too_large_is_refused(op: str, shape: tuple[int, ...], triton_device: torch.device) -> None:
    seen: list[Tensor] = []
    if triton_device.type != "cpu":
        pytest.skip("the limits are of shapes alone, and the map's memory would be the GPU's")
    with use_backend("triton"), maps.observed(seen.append):
        with pytest.raises(UserError, match=r"at most 65535 images, 1073741824 pixels in all and 134217728 elements"):
            OPS[op](wide(*shape))
    assert not seen


def test_maps_that_just_fit_pass(triton_device: torch.device) -> None:
    if triton_device.type != "cpu":
        pytest.skip("the limits are of shapes alone")
    with use_backend("triton"):
        for shape in ((65535, 4, 2, 2), (65535, 4, 128, 127), (1, 4, 8192, 4096)):
            maps.check_stored("cell", "x", wide(*shape))
    with use_backend("cpu"):
        for shape in TOO_LARGE:
            maps.check_stored("cell", "x", wide(*shape))


@pytest.mark.parametrize("which", ["forward", "backward"])
def test_cuda_refuses_more_pixels_than_it_counts(which: str) -> None:
    """Its own door too: an address that nobody reads, of 2^30 pixels and some."""
    module, size = shim(), 2**15 + 1
    somewhere = torch.zeros(64)
    address = somewhere.data_ptr()
    source = (address, 4, 2**15, size, address, 4)
    conv = (0, 3, 1, 1, address, address, address, 4, address, 4, address, address)
    names = ("mean", "rstd", "scratch")
    given = {"count": 1, "channels": 4, "sources": [source], "convs": [conv], **dict.fromkeys(names, 0)}
    given |= {"scratch": address, "scratch_bytes": 2**62, "tf32": False, "device": 0, "stream": 0}
    given |= (
        dict.fromkeys(("y_mean", "y_var"), address)
        if which == "forward"
        else dict.fromkeys(("alpha", "beta", "gamma", "sums", "products"), address) | {"weights": False, "add": False}
    )
    with pytest.raises(RuntimeError, match=r"more than 2\^30 pixels"):
        getattr(module, f"cuda_stencil_{which}_float32")(**given)
