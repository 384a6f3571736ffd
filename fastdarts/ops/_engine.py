"""The launchers of each backend: one module an op, the same functions with the same arguments in all of them."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

import torch

from fastdarts._backend import BackendError, backend_for, backends

__all__ = ["Engine", "computing", "engine", "launchers", "tf32_allowed"]

_TRITON = {op: f"_{op}_triton" for op in ("stencil", "mixed_sum", "preprocess", "coefficients")}
_MODULES = {
    "cpu": {op: f"_{op}_cpu" for op in _TRITON},
    "triton": _TRITON,
    # CUDA C++ for what register blocking decides, Triton for what only moves bytes.
    "cuda": _TRITON | {"stencil": "_stencil_cuda"},
}


@dataclass(frozen=True)
class Engine:
    """What computes a cell: modules of launchers.

    Args:
        stencil: `forward`, `backward`.
        mixed_sum: `forward`, `reduce`, `backward`, `pool_moments`.
        preprocess: `forward`, `normalise_`, `reduce`, `backward`.
        coefficients: `rows`, `mixing`, `gradient`.
    """

    stencil: ModuleType
    mixed_sum: ModuleType
    preprocess: ModuleType
    coefficients: ModuleType


def engine(backend: str) -> Engine:
    """The launchers of a backend that is not `reference`."""
    return Engine(**{op: launchers(op, backend) for op in _TRITON})


def computing(op: str, x: torch.Tensor) -> str:
    """The backend whose launchers compute a library op on maps like x.

    The one in force; where that is plain torch, the device's own: torch.ops is a door too, and a backward pass may run
    after the choice that its forward was made under. Float64 on a GPU is Triton's: CUDA C++ has no kernels for it.

    Raises:
        BackendError: there is none on this device.
    """
    device = x.device.type
    backend = backend_for(op, device)
    if backend == "reference" and device in ("cpu", "meta"):
        backend = "cpu"
    elif backend == "reference":
        live = [name for name in ("cuda", "triton") if backends()[name].live]
        if not live:
            raise BackendError(f"{op} on {device}: no kernels ({backends()['triton'].reason})")
        backend = live[0]
    return "triton" if backend == "cuda" and x.dtype == torch.float64 else backend


@functools.cache
def launchers(op: str, backend: str) -> ModuleType:
    """The module of launchers of an op; imported only now, so that triton is optional."""
    return importlib.import_module(f"fastdarts.ops.{_MODULES[backend][op]}")


def tf32_allowed() -> bool:
    """Whether matrix products of float32 may round their factors to TF32: torch's own switch, off unless set."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
