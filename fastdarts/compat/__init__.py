"""Other projects' names over fastdarts: :mod:`fastdarts.compat.darts` and :mod:`fastdarts.compat.pcdarts`."""

from __future__ import annotations

from fastdarts.compat import darts, pcdarts

__all__ = ["darts", "pcdarts"]
