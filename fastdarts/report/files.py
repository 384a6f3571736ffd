"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fastdarts.errors import UserError
from fastdarts.runs import durable

__all__ = ["replace_file"]


def replace_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Put a file in place at once, so that a reader sees the old content or the new, never a part.

    A run folder may be locked by a running search, so this asks for no lock, unlike ``RunFolder.write_bytes``.

    Args:
        path: the file.
        data: its content.

    Returns:
        The path written.

    Raises:
        UserError: if it cannot be written; what was there is then as it was.
    """
    target = Path(path)
    try:
        # A misspelt folder is told, not made.
        target.parent.stat()
        durable.replace_file(target, data, temporary=f".report-{secrets.token_hex(4)}-")
    except OSError as error:
        remedy = "free space, or name a file in a folder that exists and can be written"
        raise UserError(f"cannot write {target}: {error.strerror}", remedy=remedy) from error
    return target
