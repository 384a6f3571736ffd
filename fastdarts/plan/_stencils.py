"""The windows that the engine's stencil kernels take: the one list on this side; csrc/stencils.h is its other copy.

A new size is a number here and there: plans, checks and messages, the C++ and the CUDA follow; Triton's kernels are
compiled for any.
"""

from __future__ import annotations

__all__ = ["CUDA_DILATIONS", "DILATIONS", "SIDES", "STRIDES", "WIDE_POOLS", "WINDOWS", "is_stencil"]

SIDES = (1, 3, 5, 7)
"""Sides of a depthwise window, pixels; 1 has dilation 1."""
DILATIONS = (1, 2, 3)
"""Pixels between the taps; backend cuda has kernels of its own for the first `CUDA_DILATIONS`, the rest is Triton's."""
CUDA_DILATIONS = 2
STRIDES = (1, 2)
WINDOWS = SIDES[1:]
"""Those of a separable or a dilated convolution."""
WIDE_POOLS = (5, 7)
"""Sides of the pools that are no part of the sum's own pass, pixels."""


def is_stencil(kernel: int, dilation: int, stride: int) -> bool:
    """Whether there are kernels for a window."""
    return kernel in SIDES and dilation in DILATIONS and stride in STRIDES
