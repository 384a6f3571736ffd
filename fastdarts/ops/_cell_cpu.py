"""A cell on the CPU: its program handed to the native core once, then one call a direction.

Everything is allocated here: the outputs, what is kept for backward, and one scratch for all that lives during the call
only. On meta the very same is allocated, and nothing runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.ops import maps
from fastdarts.ops._cell_given import Asked, Given
from fastdarts.ops._cell_native import native_program
from fastdarts.ops._cell_pieces import Pieces

__all__ = ["backward", "forward"]


def forward(given: Given, backend: str = "cpu") -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Run a cell.

    Args:
        given: what it reads.
        backend: cpu.

    Returns:
        The output, channels_last; mean and var [norms * C'] float64; what is kept for backward:
        values y, then the nodes that are not part of the output.
    """
    x, cell = given.sources[0], native_program(*_key(given, (True,) * len(given.sources), True))
    plan, known = cell.program.plan, given.mean is not None
    n, height, width = _outer(plan.stride, x)
    out = maps.empty_maps(n, plan.channels * len(plan.concat), height, width, like=x)
    channels = [plan.mixed] * len(cell.program.kept) + [plan.channels] * len(cell.program.hidden)
    kept = [maps.empty_maps(n, each, height, width, like=x) for each in channels]
    size = len(plan.norms) * plan.mixed
    if given.mean is None or given.var is None:
        mean, var = (maps.empty(size, dtype=torch.float64, device=x.device) for _ in range(2))
    else:  # of the op's own: an output of an op must not be one of its inputs
        mean, var = (each.to(torch.float64, copy=True) for each in (given.mean, given.var))
    reads, call = _Reads(given), {"sizes": _sizes(x), "threads": torch.get_num_threads()}
    needed = cell.function("forward_scratch", x)(**call, known=known)
    scratch = maps.empty(needed, dtype=torch.uint8, device=x.device)
    if not x.is_meta:
        written = {"out": out, "mean": mean, "var": var, "scratch": scratch}
        addresses: dict[str, Any] = {name: each.data_ptr() for name, each in written.items()}
        addresses |= {"kept": [each.data_ptr() for each in kept], "scratch_bytes": needed}
        cell.function("forward", x)(**call, **reads.addresses(), **addresses, known=known)
    return out, mean, var, kept


def backward(
    given: Given,
    grad: Tensor,
    out: Tensor,
    kept: Sequence[Tensor],
    asked: Asked,
    *,
    training: bool,
    backend: str = "cpu",
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Run the backward of a cell.

    Args:
        given: what its forward read, with the statistics that it returned.
        grad: of the output, any strides.
        out: what forward returned; so is kept.
        kept: maps.
        asked: whose gradients are wanted.
        training: whether the statistics are the batch's.
        backend: cpu.

    Returns:
        The gradients of the sources that are asked, maps; of the weights and the bypass; of the parameters; of what
        was handed in and is asked, maps. Each in the dtype of what it is of.
    """
    x, cell = given.sources[0], native_program(*_key(given, asked.sources, asked.parameters))
    assert given.mean is not None and given.var is not None  # forward returned them
    plan, device, reads = cell.program.plan, x.device, _Reads(given)
    pieces = reads.pieces
    g = maps.as_maps(grad)
    dstates, dnoise = _gradients(given.sources, asked.sources), _gradients(given.noise, asked.noise)
    arithmetic, dparameters = maps.arithmetic(x.dtype), []
    if asked.parameters:
        dparameters = [maps.empty(*each.shape, dtype=arithmetic, device=device) for each in given.parameters]
        for each, whole in zip(dparameters, () if pieces is None else pieces.whole, strict=False):
            if not whole:
                each.zero_()
    products = dbypass = None
    if asked.weights:
        products = maps.empty(len(cell.columns), plan.mixed, dtype=torch.float64, device=device)
    if asked.bypass:
        dbypass = maps.empty(len(plan.edges), dtype=torch.float64, device=device)
    # A copy that was made here may be added to in place; the caller's gradient may not.
    call: dict[str, Any] = {"sizes": _sizes(x), "threads": torch.get_num_threads()}
    call |= {"owned": g is not grad, "training": training}
    wanted = {"weighted": asked.weights, "bypassed": asked.bypass, "parameters": asked.parameters}
    needed = cell.function("backward_scratch", x)(**call, **wanted, sources=asked.sources)
    scratch = maps.empty(needed, dtype=torch.uint8, device=device)
    if not x.is_meta:
        read = {"out": out, "mean": given.mean, "var": given.var, "scratch": scratch}
        cell.function("backward", x)(
            **call,
            **reads.addresses(),
            **{name: each.data_ptr() for name, each in read.items()},
            kept=[each.data_ptr() for each in kept],
            grad=_lying(g),
            dstates=[(0, 0) if each is None else _lying(each) for each in dstates],
            dnoises=[_address(each) for each in dnoise],
            dparameters=_addresses(dparameters, pieces),
            products=_address(products),
            dbypass=_address(dbypass),
            scratch_bytes=needed,
        )
    mixing = []
    if products is not None:
        total = torch.zeros(given.weights.numel() + 1, dtype=torch.float64, device=device)
        total.index_copy_(0, cell.column_index(device), products.sum(1))
        mixing.append(total[:-1].view(given.weights.shape).to(given.weights.dtype))
    if dbypass is not None and given.bypass is not None:
        mixing.append(dbypass.to(given.bypass.dtype))
    parameters = [maps.cast(found, own.dtype) for found, own in zip(dparameters, given.parameters, strict=False)]
    return (
        [each for each in dstates if each is not None],
        mixing,
        parameters,
        [each for each in dnoise if each is not None],
    )


class _Reads:
    """The tensors as the native core reads them; kept alive until it has."""

    def __init__(self, given: Given) -> None:
        x, self.eps = given.sources[0], given.eps
        self.pieces = given.pieces()
        self.states = [maps.as_maps(each) for each in given.sources]
        self.noises = [maps.as_dense_maps(each) for each in given.noise]
        self.parameters = [maps.plain(each, maps.arithmetic(x.dtype)) for each in given.parameters]
        self.weights = given.flat_weights()
        self.bypass = self.weights.new_ones(len(given.weights))
        if given.bypass is not None:
            self.bypass = given.bypass.detach().to(torch.float64).contiguous()

    def addresses(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "states": [_lying(each) for each in self.states],
            "parameters": _addresses(self.parameters, self.pieces),
            "noises": [each.data_ptr() for each in self.noises],
            "weights": self.weights.data_ptr(),
            "bypass": self.bypass.data_ptr(),
        }


def _key(given: Given, sources: tuple[bool, ...], parameters: bool) -> tuple[str, str, int, tuple[bool, ...], bool]:
    return given.plan, given.memory, given.weights.shape[1], sources, parameters


def _gradients(of: Sequence[Tensor], asked: Sequence[bool]) -> list[Tensor | None]:
    return [maps.empty_maps(*x.shape, like=x) if wanted else None for x, wanted in zip(of, asked, strict=True)]


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[2], x.shape[3]


def _outer(stride: int, x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], -(-x.shape[2] // stride), -(-x.shape[3] // stride)


def _lying(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), maps.pixel_stride(x)


def _addresses(tensors: Sequence[Tensor], pieces: Pieces | None) -> list[int]:
    """Of the parameters, or of their gradients."""
    found = [each.data_ptr() for each in tensors]
    if pieces is None or not found:
        return found
    itemsize = tensors[0].itemsize
    return [found[tensor] + start * itemsize for tensor, start in pieces.places]


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
