"""What goes wrong with a run folder, told as one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastdarts.errors import UserError

__all__ = ["CheckpointError", "storage_errors"]


class CheckpointError(UserError):
    """A checkpoint that cannot be used: names the file, what was found in it and what to do."""


@contextmanager
def storage_errors(
    path: str | os.PathLike[str], then: Callable[[], str] = str, *, doing: str = "write"
) -> Iterator[None]:
    """Turn an `OSError` of the block into one line that names the path and the remedy.

    Args:
        path: what was being used; the error's own file name wins where it has one.
        then: says what to do once the cause is removed.
        doing: "write" or "read".

    Raises:
        UserError: for any `OSError` inside the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some disk space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            other = "make the folder writable or choose another one"
            remedy = "make it readable, or ask who owns it" if doing == "read" else other
        else:
            remedy = "check the disk and the path"
        follow = then()
        remedy = f"{remedy}, {follow}" if follow else remedy
        what = f"cannot {doing} {error.filename or path}: {error.strerror or error}"
        raise UserError(what, remedy=remedy) from error
