"""The launchers of the fused stencil in CUDA C++ (csrc/cuda/stencil.h); the rest of a cell runs in Triton."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import BackendError, native, native_failure
from fastdarts.ops._engine import tf32_allowed
from fastdarts.ops._stencil_call import Call, Gradients, empty_ys
from fastdarts.reference.stencil import Conv

__all__ = ["backward", "empty_ys", "forward"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def forward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    moments: bool = True,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """As :func:`fastdarts.ops._stencil_cpu.forward`, of float32, bfloat16 or float16 maps."""
    return _CudaCall(sources, convs, depthwise, pointwise, mean, rstd).forward(moments)


def backward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    g: Sequence[Tensor],
    ys: Sequence[Tensor] | None,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    dx: Sequence[Tensor] | None = None,
    weights: bool = True,
) -> Gradients:
    """As :func:`fastdarts.ops._stencil_cpu.backward`, of float32, bfloat16 or float16 maps."""
    call = _CudaCall(sources, convs, depthwise, pointwise, mean, rstd)
    return call.backward(g, ys, (alpha, beta, gamma), dx, weights)


def core() -> ModuleType:
    """The module that has the functions of csrc/bindings/stencil_cuda.cpp; tests put their host build here."""
    module = native()
    if module is None:
        raise BackendError(native_failure())
    if not hasattr(module, "cuda_stencil_forward_float32"):
        raise BackendError("fastdarts._C was built without CUDA", "reinstall where nvcc is on the PATH")
    return module


class _CudaCall(Call):
    def scratch(self, which: str, sizes: dict[str, Any], weights: bool | None) -> int:
        if self.dtype not in _DTYPES:
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
