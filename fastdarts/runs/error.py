"""What goes wrong with a run folder, told as one line."""

from __future__ import annotations

from fastdarts.errors import UserError
from fastdarts.reading import storage_errors

__all__ = ["CheckpointError", "storage_errors"]


class CheckpointError(UserError):
    """A checkpoint that cannot be used: names the file, what was found in it and what to do."""
