"""A tar archive as a stream of bounded size: headers, members and their sum are limited before they are read."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from fastdarts.data.files import Allowance, opened, reading
from fastdarts.data.imageset import DataError

__all__ = ["Member", "members"]

# Bytes of all headers together; the published archives have eight of 512. tarfile reads a header whole, whatever size
# it says it has, and keeps every member's.
_HEADERS = 1 << 20
_CHUNK = 1 << 16


class _Stream:
    """What tarfile may read: while it looks for members only headers, and nothing beyond what the set may have."""

    def __init__(self, path: Path, file: IO[bytes], limit: int, remedy: str) -> None:
        self._path, self._file, self._limit, self._remedy = path, file, limit, remedy
        self.left = _HEADERS

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            what = f"{self._path} has headers of {_HEADERS - self.left + size} bytes"
            raise DataError(what, f"at most {_HEADERS}", self._remedy)
        self.left -= size
        return self._file.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        # Skipped bytes are decompressed too.
        if whence != os.SEEK_SET or not 0 <= place <= self._limit:
            raise self.too_long(place)
        return self._file.seek(place)

    def too_long(self, place: int) -> DataError:
        """The error for an archive that goes on."""
        what = f"{self._path} goes on to byte {place}"
        return DataError(what, f"at most {self._limit} bytes, decompressed", self._remedy)

    def tell(self) -> int:
        return self._file.tell()


class Member:
    """A member of an archive, while the archive stands at it."""

    def __init__(self, path: Path, archive: tarfile.TarFile, stream: _Stream, info: tarfile.TarInfo) -> None:
        self._path, self._archive, self._stream, self._info = path, archive, stream, info
        self.name, self.size, self.kind = info.name, info.size, info.type

    @property
    def plain(self) -> bool:
        """Whether it is a regular file, stored as it is; a link is not followed, not even to another member."""
        return self._info.isreg() and not self._info.issparse()

    def read(self, allowance: Allowance) -> bytes:
        """Its content.

        Raises:
            DataError: if it is more than the set may have, or damaged.
        """
        allowance.take(f"{self._path}: {self.name}", self.size)
        found = bytearray()
        before = self._stream.left
        with (
            reading(self._path, allowance.source),
            cast("IO[bytes]", self._archive.extractfile(self._info)) as file,
        ):
            while len(found) < self.size:
                self._stream.left = 4 * _CHUNK
                part = file.read(_CHUNK)
                if not part:
                    raise EOFError(f"{self.name} ends after {len(found)} of {self.size} bytes")
                found += part
        self._stream.left = before
        return bytes(found)


def members(path: Path, allowance: Allowance) -> Iterator[Member]:
    """The members of a tar archive, plain or gzipped, one after the other; nothing is extracted.

    Raises:
        DataError: for headers or a whole of more bytes than such an archive can have, and a damaged one.
    """
    # Beside the files of the set: documents, and members of other names.
    limit = 2 * allowance.source.limit
    with opened(path, allowance.source) as file:
        stream = _Stream(path, file, limit, allowance.source.get)
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as archive:
            for info in archive:
                yield Member(path, archive, stream, info)
            # tarfile stops at the archive's end mark; gzip's checksum comes after it.
            while file.read(1 << 20):
                if file.tell() > limit:
                    raise stream.too_long(file.tell())
