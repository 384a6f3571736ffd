"""The memory harness: what a forward pass keeps for its backward."""

from __future__ import annotations

from fastdarts.profile.memory import kept_bytes

__all__ = ["kept_bytes"]
