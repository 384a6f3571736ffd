"""A supernet and a batch for the tests of relaxations by chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.search.choices import Relaxation
from fastdarts.search.gates import BinaryGates
from fastdarts.search.sampling import Concrete, GumbelPath
from tests import tiny

RELAXATIONS: dict[str, Relaxation] = {
    "gdas": GumbelPath(10.0, 0.1, 5),
    "snas": Concrete(1.0, 0.03, 5),
    "gates": BinaryGates(),
}


def supernet(space: Any = tiny.SPACE, *, scale: float = 1.0, seed: int = 0) -> Supernet:
    """Three narrow cells in float64, alphas of a size at which they differ."""
    torch.manual_seed(seed)
    return Supernet(space, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=scale).double()


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Six images and their labels."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 1, 8, 8, generator=generator, dtype=dtype), torch.arange(6) % 3
