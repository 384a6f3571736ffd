"""What may be in a run folder: nothing that leads out of it, and nothing at all where one is to be made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from fastdarts.errors import UserError
from fastdarts.reading import storage_errors
from fastdarts.runs.durable import TEMPORARY
from fastdarts.runs.lock import LOCK

__all__ = ["CONFIG", "METRICS", "check_inside", "foreign", "innermost", "path_inside", "refuse_filled"]

CONFIG = "config.json"
METRICS = "metrics.jsonl"


def check_inside(root: Path, *, writing: bool = False) -> None:
    """Refuse a run folder that holds anything but folders and files, at whatever depth.

    A symbolic link leads out of it: a resumption would change, and a report show, what the run's maker chose. The
    folder itself may be reached by a link.

    Args:
        root: the run folder.
        writing: refuse files that have a second name outside too (hard links): some are written in place.

    Raises:
        UserError: naming the first link, FIFO or other special file, or what cannot be read.
    """
    names: dict[tuple[int, int], list[str]] = {}
    counts: dict[tuple[int, int], int] = {}
    folders = [os.fspath(root)]
    with storage_errors(root, doing="read"):
        while folders:
            for path, found in _listed(folders.pop(), root):
                if stat.S_ISDIR(found.st_mode):
                    folders.append(path)
                elif not stat.S_ISREG(found.st_mode):
                    raise _refuse(path, found.st_mode)
                elif writing and found.st_nlink > 1:
                    key = found.st_dev, found.st_ino
                    names.setdefault(key, []).append(path)
                    counts[key] = found.st_nlink
    for key, paths in names.items():
        if counts[key] > len(paths):
            raise UserError(
                f"{paths[0]} has another name outside the run (a hard link)",
                "a file of its own: writing to the run would change the other file too",
                f"copy the run (cp -r --no-preserve=links {root} COPY) and use the copy",
            )


def _listed(folder: str, root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A folder's entries and what they are; those that a live run removes meanwhile are left out."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        if folder == os.fspath(root):
            raise
        return
    for entry in entries:
        with suppress(FileNotFoundError):
            yield entry.path, entry.stat(follow_symlinks=False)


def _refuse(path: str, mode: int) -> UserError:
    expected = "files and folders only, since nothing inside a run is followed out of it"
    if stat.S_ISLNK(mode):
        remedy = "put the file or folder itself in its place, if you trust whoever made the run"
        return UserError(f"{path} is a link to {os.readlink(path)}", expected, remedy)
    return UserError(f"{path} is a {'FIFO' if stat.S_ISFIFO(mode) else 'special file'}", expected, "remove it")


def innermost(root: Path, path: Path) -> Path:
    """The run that a file inside a run belongs to: the run itself, or one inside it."""
    while (path := path.parent) != root:
        if (path / CONFIG).is_file():
            return path
    return root


def path_inside(root: Path, name: str) -> Path:
    """The path of a file or folder inside, by its relative name, which may come from a file of the run.

    Raises:
        UserError: if the name leads outside.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        what = f"the file name {name!r} leads outside the run folder"
        raise UserError(what, "a relative name such as epochs/0003.json")
    return root.joinpath(*parts)


def refuse_filled(path: Path) -> None:
    """Refuse a path in which no run can be made.

    Raises:
        UserError: if it is a run, or no folder, or not empty.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise UserError(f"{path} exists and is no folder", "a new or empty folder")
    if (path / CONFIG).exists() and (path / METRICS).exists():
        raise UserError(
            f"{path} is already a run",
            "a new or empty folder",
            f"continue it with --resume {path}, or choose another folder",
        )
    names = foreign(path)
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(f"{path} is not empty: it holds {shown}", "a new or empty folder", "choose another folder")


def foreign(path: Path) -> list[str]:
    """The names in a folder that a process killed in `RunFolder.create` cannot have left."""
    return sorted(
        entry.name
        for entry in path.iterdir()
        if entry.name != LOCK
        and not entry.name.startswith(TEMPORARY)
        and not (entry.name == METRICS and entry.stat().st_size == 0)
    )
