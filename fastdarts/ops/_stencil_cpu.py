"""The launchers of the fused stencil (`StencilLaunchers`) on a CPU: check what memory depends on, allocate, call."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import BackendError, native, native_failure
from fastdarts.ops._records import StencilBackward, StencilForward, StencilGradients
from fastdarts.ops._stencil_call import Call, empty_ys

__all__ = ["backward", "empty_ys", "forward"]


def forward(given: StencilForward) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    return _CpuCall(given).forward(given.moments)


def backward(given: StencilBackward) -> StencilGradients:
    return _CpuCall(given).backward(given)


class _CpuCall(Call):
    def scratch(self, which: str, sizes: dict[str, Any], weights: bool | None) -> int:
        asked = {"weights": weights} if which == "backward" else {}
        count = self.function(_core(), f"stencil_{which}_scratch")
        return int(count(**sizes, **asked, threads=torch.get_num_threads()))

    def call(self, which: str, **arguments: Any) -> None:
        self.function(_core(), f"stencil_{which}")(**arguments, threads=torch.get_num_threads())


def _core() -> ModuleType:
    core = native()
    if core is None:
        raise BackendError(native_failure())
    return core
