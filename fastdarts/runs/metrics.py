"""The records of a run, one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.runs.durable import write_all

__all__ = ["append", "flush", "prefix", "read", "repair", "truncate"]


def append(path: Path, record: dict[str, Any]) -> None:
    """Append one record, flushed to the disk; a write that fails or is interrupted leaves the file as it was.

    Args:
        path: the `metrics.jsonl`.
        record: what `json` can write; nan and infinities become `NaN` and `Infinity`, which Python reads back.

    Raises:
        TypeError: if the record is no dict or holds something that JSON cannot.
        OSError: what the system said.
    """
    if type(record) is not dict:
        raise TypeError(f"record is a {type(record).__qualname__}; expected a dict")
    line = (json.dumps(record) + "\n").encode("ascii")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(fd).st_size
        try:
            write_all(fd, line)
            # A kill loses nothing either way; against a power cut each flush costs milliseconds, too much for a step.
            if record.get("kind") != "step":
                os.fsync(fd)
        except BaseException:
            # The next record would otherwise be glued to a torn line, and both would be lost.
            os.ftruncate(fd, size)
            raise
    finally:
        os.close(fd)


def _complete(data: bytes) -> int:
    """The length of `data` in bytes up to the end of its last whole record: only the last line can be torn."""
    end = data.rfind(b"\n") + 1
    start = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    try:
        json.loads(data[start:end])
    except ValueError:
        return start
    return end


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records; a torn last line is left out.

    Raises:
        UserError: if a line before the last is no JSON, with its number.
    """
    data = path.read_bytes()
    records = []
    for number, line in enumerate(data[: _complete(data)].splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path} line {number} is {line[:40]!r}",
                "a JSON object",
                "restore the file, or delete that line by hand",
            ) from error
    return records


def repair(path: Path) -> None:
    """Cut a torn last line off, so that records can follow."""
    data = path.read_bytes()
    if _complete(data) < len(data):
        logging.getLogger("fastdarts").warning(
            "%s: dropped a torn last line of %d bytes", path, len(data) - _complete(data)
        )
        truncate(path, _complete(data))


def flush(path: Path) -> tuple[int, str]:
    """Flush the records to the disk and return their length in bytes and their SHA-256."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return prefix(path)


def prefix(path: Path, size: int = -1) -> tuple[int, str]:
    """Length in bytes and SHA-256 of the first `size` bytes (all with -1), or of what there is if that is less."""
    with path.open("rb") as file:
        data = file.read(size)
    return len(data), hashlib.sha256(data).hexdigest()


def truncate(path: Path, size: int) -> None:
    """Cut the file to its first `size` bytes, flushed."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)
