"""Which launchers compute an op on a backend: those of the module `_<op>_<backend>.py` beside this file.

A launcher takes the record of its call (`_records.py`). CUDA C++ has what register blocking decides; what has no module
of its own there, and dtypes that a module does not name in `DTYPES`, are Triton's.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch

from fastdarts._backend import BackendError, backend_for, backends
from fastdarts.ops._records import CoefficientLaunchers, PreprocessLaunchers, StencilLaunchers, SumLaunchers

__all__ = ["Engine", "computing", "engine", "launchers", "tf32_allowed"]

_LENT = {"cuda": "triton"}  # whose launchers stand in for those that a backend has not


@dataclass(frozen=True)
class Engine:
    """What computes a cell."""

    stencil: StencilLaunchers
    mixed_sum: SumLaunchers
    preprocess: PreprocessLaunchers
    coefficients: CoefficientLaunchers


if TYPE_CHECKING:  # every module has what its op's protocol asks
    from fastdarts.ops import (
        _coefficients_cpu,
        _coefficients_triton,
        _mixed_sum_cpu,
        _mixed_sum_triton,
        _preprocess_cpu,
        _preprocess_triton,
        _stencil_cpu,
        _stencil_cuda,
        _stencil_triton,
    )

    _CPU = Engine(_stencil_cpu, _mixed_sum_cpu, _preprocess_cpu, _coefficients_cpu)
    _TRITON = Engine(_stencil_triton, _mixed_sum_triton, _preprocess_triton, _coefficients_triton)
    _CUDA = Engine(_stencil_cuda, _mixed_sum_triton, _preprocess_triton, _coefficients_triton)


def engine(backend: str) -> Engine:
    """The launchers of a backend that is not `reference`."""
    return Engine(
        cast(StencilLaunchers, launchers("stencil", backend)),
        cast(SumLaunchers, launchers("mixed_sum", backend)),
        cast(PreprocessLaunchers, launchers("preprocess", backend)),
        cast(CoefficientLaunchers, launchers("coefficients", backend)),
    )


def computing(op: str, x: torch.Tensor) -> str:
    """The backend whose launchers compute a library op on maps like x.

    The one in force; where that is plain torch, the device's own: torch.ops is a door too, and a backward pass may run
    after the choice that its forward was made under.

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
    return backend if _has(backend, x.dtype) else _LENT[backend]


@functools.cache
def _has(backend: str, dtype: torch.dtype) -> bool:
    """Whether all of a backend's own launchers take maps of a dtype; those that name none take every one."""
    if backend not in _LENT:
        return True
    own = (launchers(op, backend) for op, other in _modules() if other == backend)
    return all(dtype in getattr(module, "DTYPES", (dtype,)) for module in own)


@functools.cache
def _modules() -> frozenset[tuple[str, str]]:
    """(op, backend) of each module of launchers."""
    names = (module.name for module in pkgutil.iter_modules(importlib.import_module("fastdarts.ops").__path__))
    split = (name.removeprefix("_").rpartition("_") for name in names if name.startswith("_"))
    return frozenset((op, backend) for op, _, backend in split if backend in ("cpu", "triton", "cuda"))


@functools.cache
def launchers(op: str, backend: str) -> ModuleType:
    """The module of launchers of an op; imported only now, so that triton is optional."""
    own = backend if (op, backend) in _modules() else _LENT[backend]
    return importlib.import_module(f"fastdarts.ops._{op}_{own}")


def tf32_allowed() -> bool:
    """Whether matrix products of float32 may round their factors to TF32: torch's own switch, off unless set."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")
