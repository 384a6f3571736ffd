"""One process at a time on a run folder."""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path

from fastdarts.errors import UserError
from fastdarts.runs.durable import write_all
from fastdarts.runs.error import storage_errors

__all__ = ["LOCK", "RunLock", "is_locked"]

LOCK = ".lock"
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """An `flock` on the folder's `.lock` file, which the system releases when the process ends, however it ends.

    The file itself stays: removing it would let two processes hold locks on two files of one name.

    Raises:
        UserError: if another holder has it (told with its process id), or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._fd = -1
        _release_in_forked_children()
        with storage_errors(folder / LOCK):
            self._fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                logging.getLogger("fastdarts").warning(
                    "%s: this file system has no locks; nothing guards the run from a second process", folder
                )
            else:
                self._refuse(folder, error)
        else:
            # Only the message of a refused process reads this, so a full disk must not matter here.
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                write_all(self._fd, f"process {os.getpid()} on {socket.gethostname()}".encode())
        _held.add(self)

    def _refuse(self, folder: Path, error: OSError) -> None:
        holder = os.pread(self._fd, 200, 0).decode("utf-8", "replace") or "another process"
        self.release()
        raise UserError(
            f"{folder} is in use by {holder}",
            remedy="wait until it ends or stop it; two processes would mix their records",
        ) from error

    @property
    def held(self) -> bool:
        """Whether this object still holds the lock."""
        return self._fd >= 0

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.release()


def is_locked(folder: Path) -> bool:
    """Whether some process writes to a run now; nothing is created or written to find out.

    The lock is asked for, shared, and given back at once.
    """
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


@functools.cache
def _release_in_forked_children() -> None:
    # A forked worker shares the open file: without this it would keep the run locked after its parent was killed.
    def release_all() -> None:
        for lock in list(_held):
            lock.release()

    os.register_at_fork(after_in_child=release_all)
