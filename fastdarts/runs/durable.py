"""Files that are there whole or not at all, whatever kills the process or the machine.

A file is written beside its place under a temporary name, flushed to the disk, then renamed; the folder is flushed
last, since a rename lives in the folder and not in the file.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

__all__ = [
    "TEMPORARY",
    "clean",
    "drop_folder",
    "make_folder",
    "replace_file",
    "replace_folder",
    "sync_folder",
    "write_all",
]

TEMPORARY = ".tmp-"
DISPLACED = ".old-"


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a file descriptor, however many calls the system takes for it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it outlives a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot flush a folder at all, and need not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each entry flushed."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(path, flags, 0o666)
    except FileExistsError:
        # A killed process left it; not written into, since a name may be another file's too.
        path.unlink()
        fd = os.open(path, flags, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, temporary: str = TEMPORARY) -> None:
    """Put `data` at `path` atomically: a reader sees the old content or the new, never a part.

    Args:
        path: the file; missing folders are made.
        data: its content.
        temporary: how the temporary's name begins. Who holds no lock gives a name of his own: two processes would
            write into one file.

    Raises:
        OSError: what the system said; the old content is then still there, and no temporary file.
    """
    make_folder(path.parent)
    beside = path.with_name(temporary + path.name)
    try:
        _write_synced(beside, data)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_folder(path: Path, files: dict[str, bytes]) -> None:
    """Put a folder of files at `path` atomically, in place of a folder of that name if there is one.

    A folder cannot be renamed onto a filled one, so the old one steps aside first; `clean` puts it back
    if the process dies between the two renames.

    Raises:
        OSError: what the system said; the old folder is then still there, and no temporary one.
    """
    make_folder(path.parent)
    temporary = path.with_name(TEMPORARY + path.name)
    displaced = path.with_name(DISPLACED + path.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, data in files.items():
            _write_synced(temporary / name, data)
        sync_folder(temporary)
        if path.exists():
            os.rename(path, displaced)
        os.rename(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _put_back(displaced)
        raise
    shutil.rmtree(displaced, ignore_errors=True)


def drop_folder(path: Path) -> None:
    """Remove a folder so that a killed process leaves it whole or out of sight, never in part."""
    temporary = path.with_name(TEMPORARY + path.name)
    shutil.rmtree(temporary, ignore_errors=True)
    os.rename(path, temporary)
    shutil.rmtree(temporary)


def _put_back(displaced: Path) -> None:
    if not displaced.exists():
        return
    path = displaced.with_name(displaced.name.removeprefix(DISPLACED))
    if path.exists():
        shutil.rmtree(displaced)
    else:
        os.rename(displaced, path)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written in a folder, and put back what it had moved aside."""
    for entry in list(folder.iterdir()):
        if entry.name.startswith(TEMPORARY):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        elif entry.name.startswith(DISPLACED + "step-"):
            _put_back(entry)
