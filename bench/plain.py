"""The baseline in eager torch, which `fastdarts bench` needs too: it lives in the package."""

from __future__ import annotations

from fastdarts.profile.eager import PlainMixedOp, PlainSupernet

__all__ = ["PlainMixedOp", "PlainSupernet"]
