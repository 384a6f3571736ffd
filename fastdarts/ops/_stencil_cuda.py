"""The launchers of the fused stencil (`StencilLaunchers`) in CUDA C++ (csrc/cuda/stencil.h)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from fastdarts._backend import native_cuda
from fastdarts.ops._engine import launchers, tf32_allowed
from fastdarts.ops._records import Conv, StencilBackward, StencilForward, StencilGradients, StencilLaunchers
from fastdarts.ops._stencil_call import Call, empty_ys
from fastdarts.plan._stencils import CUDA_DILATIONS

__all__ = ["DTYPES", "backward", "empty_ys", "forward"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def forward(given: StencilForward) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    return _CudaCall(given).forward(given.moments) if _takes(given.convs) else _triton().forward(given)


def backward(given: StencilBackward) -> StencilGradients:
    return _CudaCall(given).backward(given) if _takes(given.convs) else _triton().backward(given)


def _takes(convs: Sequence[Conv]) -> bool:
    """Whether all windows have kernels here; a call with another one is Triton's."""
    return all(conv.dilation <= CUDA_DILATIONS for conv in convs)


def _triton() -> StencilLaunchers:
    return cast(StencilLaunchers, launchers("stencil", "triton"))


def core() -> ModuleType:
    """The module that has the functions of csrc/bindings/stencil_cuda.cpp; tests put their host build here."""
    return native_cuda()


class _CudaCall(Call):
    def scratch(self, which: str, sizes: dict[str, Any], weights: bool | None) -> int:
        if self.dtype not in DTYPES:
            raise TypeError(f"stencil: a source is {self.dtype}; expected float32, bfloat16 or float16 on backend cuda")
        asked = {} if which == "forward" else {"weights": weights, "normalised": self.statistics[0] is not None}
        return int(self.function(core(), f"cuda_stencil_{which}_scratch")(**sizes, **asked))

    def call(self, which: str, **arguments: Any) -> None:
        index, stream = 0, 0
        if self.device.type == "cuda":
            index = torch.cuda.current_device() if self.device.index is None else self.device.index
            stream = torch.cuda.current_stream(self.device).cuda_stream
        where = {"tf32": tf32_allowed(), "device": index, "stream": stream}
        self.function(core(), f"cuda_stencil_{which}")(**arguments, **where)
