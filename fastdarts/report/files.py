"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fastdarts.errors import UserError

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
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".report-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read; a report is for sending around.
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        remedy = "free space, or name a file in a folder that exists and can be written"
        raise UserError(f"cannot write {target}: {error.strerror}", remedy=remedy) from error
    return target
