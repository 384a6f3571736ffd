"""Fused operations: one file an op, with schema, checks, dispatch and the public function."""

from __future__ import annotations

from fastdarts.ops.augment import augment

__all__ = ["augment"]
