"""Fused operations: one file an op, with schema, checks, dispatch and the public function."""

from __future__ import annotations

from fastdarts.ops.augment import augment
from fastdarts.ops.cell import cell
from fastdarts.ops.mixed_sum import mixed_sum, pool_moments
from fastdarts.ops.preprocess import preprocess
from fastdarts.ops.stencil import stencil
from fastdarts.ops.track import track_

__all__ = ["augment", "cell", "mixed_sum", "pool_moments", "preprocess", "stencil", "track_"]
