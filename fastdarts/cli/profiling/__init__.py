"""What `fastdarts profile` is made of: requests, the processes that measure, sweeps, and how it is shown."""

from __future__ import annotations

from fastdarts.cli.profiling.children import Outcome, measured
from fastdarts.cli.profiling.growth import Growth, grown
from fastdarts.cli.profiling.request import CONTENDERS, Request
from fastdarts.cli.profiling.sweep import Axis, read_axes

__all__ = ["CONTENDERS", "Axis", "Growth", "Outcome", "Request", "grown", "measured", "read_axes"]
