"""What the readers have in common: finding a published archive, reading it with limits, refusing pickles.

A pickle runs code of its author's choice when it is loaded, so no reader opens one: it is recognised by its name or
its first bytes and refused with the name of the archive that holds the same images as plain numbers.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from fastdarts.data.imageset import DataError
from fastdarts.reading import open_regular

__all__ = [
    "Allowance",
    "Array",
    "Part",
    "Source",
    "check_labels",
    "check_zip",
    "folder_of",
    "is_pickle",
    "not_found",
    "opened",
    "read",
    "reading",
    "refuse",
    "start",
]

Array = np.ndarray[Any, Any]
Part = tuple[Array, Array]  # images [N, C, H, W], labels [N]

# A set may be so many times the size of the published one, all its files together and decompressed: larger ones are
# refused before memory is asked for.
_TIMES = 4
# Bytes of a zip archive's directory; that of an npz has some 60 an array.
_DIRECTORY = 1 << 20

_PICKLED_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".pkl.gz", ".pickle.gz")


@dataclass(frozen=True)
class Source:
    """A published set: the archive to get, and what is in it.

    Args:
        name: as :func:`fastdarts.data.load_images` knows it.
        archive: file name of the safe archive.
        url: where it is published.
        classes: how many.
        counts: images in the training and the test part.
        pickled: names of its pickled forms.
        mean, std: [C], where the field has agreed on numbers; else measured on the training part.
        image_bytes: of an image with its labels, as the files hold it.
    """

    name: str
    archive: str
    url: str
    classes: int
    counts: tuple[int, int]
    pickled: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_bytes: int = 32 * 32 * 3 + 2

    @property
    def limit(self) -> int:
        """Bytes that its files may have in all, decompressed."""
        return _TIMES * sum(self.counts) * self.image_bytes

    @property
    def get(self) -> str:
        """The remedy: what to download, from where."""
        return f"get {self.archive} from {self.url}"

    @property
    def again(self) -> str:
        """The remedy for a damaged file."""
        return f"download it again: {self.get}"


class Allowance:
    """The bytes that are left of what a set may have, taken before they are read."""

    def __init__(self, source: Source) -> None:
        self.source, self.left = source, source.limit

    def take(self, what: Path | str, size: int) -> None:
        """Count bytes that are to be read.

        Raises:
            DataError: if these would be more than the set may have.
        """
        if not 0 <= size <= self.left:
            raise self.refuse(f"{what} has {size} bytes")
        self.left -= size

    def refuse(self, what: str) -> DataError:
        """The error for more bytes than are left."""
        limit, name = self.source.limit, self.source.name
        before = f" beside {limit - self.left} of other files" if self.left < limit else ""
        return DataError(
            f"{what}{before}", f"at most {limit} in all, {_TIMES} times the published {name}", self.source.get
        )


def start(root: str | os.PathLike[str] | None, source: Source) -> Path:
    """The path where a search for the set's files begins; refuses a missing one, and a pickle.

    Raises:
        DataError: see there.
        TypeError: where `root` is no path.
    """
    if root is None:
        what = f"{source.name} without a path to its files"
        raise DataError(what, f"the folder that holds {source.archive}", source.get)
    path = Path(root).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist", f"{source.archive} or its folder", source.get)
    with reading(path, source):
        if path.name in source.pickled or (path.is_file() and is_pickle(path)):
            raise refuse(path, source)
    return path


def folder_of(path: Path, source: Source, known: Sequence[str]) -> Path:
    """The folder to look in: `path`, or the folder around it where it is one of the set's files itself."""
    if path.is_dir():
        return path
    if path.name not in known:
        expected = f"{source.archive}, or one of {', '.join(known)}"
        raise DataError(f"{path} is no file of {source.name}", expected, source.get)
    return path.parent


def is_pickle(path: Path) -> bool:
    """Whether a file's name or first bytes are those of a pickle or of a torch checkpoint; nothing is loaded."""
    if path.name.lower().endswith(_PICKLED_SUFFIXES):
        return True
    with os.fdopen(open_regular(path), "rb") as file:
        head = file.read(2)
        if head == b"PK" and zipfile.is_zipfile(file):
            check_zip(path, file)
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
    # The opcode PROTO and a protocol number, which begin every pickle since Python 2.3.
    return len(head) == 2 and head[0] == 0x80 and head[1] in range(2, 6)


def check_zip(path: Path, file: IO[bytes]) -> None:
    """Refuse a zip archive whose directory is larger than that of any set's: zipfile reads it whole.

    Raises:
        DataError: see there.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 64))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    # The locator of a 64-bit directory, whose sizes would count instead.
    if directory > _DIRECTORY or b"PK\x06\x07" in tail[:at][-20:]:
        raise DataError(
            f"{path} has a directory of {directory} bytes, or one of 64 bits",
            f"at most {_DIRECTORY} bytes, of 32 bits",
            "download it again, or save the arrays alone (numpy.savez)",
        )
    file.seek(0)


def refuse(path: Path, source: Source) -> DataError:
    """The error for a pickled form of the set."""
    return DataError(
        f"{path} is pickled, and a pickle can run any code when it is loaded",
        f"{source.archive}, which holds the same images as plain numbers",
        source.get,
    )


def not_found(folder: Path, source: Source, looked_for: Sequence[str]) -> DataError:
    """The error for a folder without the set's files, which names a pickled form if there is one."""
    inside = sorted(folder.iterdir())
    for path in inside:
        if path.name in source.pickled or path.name.lower().endswith(_PICKLED_SUFFIXES):
            return refuse(path, source)
    what = f"{folder} is empty"
    if inside:
        found = ", ".join(path.name for path in inside[:8])
        what = f"{folder} holds no {source.name}, only {found}{', ...' if len(inside) > 8 else ''}"
    return DataError(what, f"one of {', '.join(looked_for)}", source.get)


@contextmanager
def reading(path: Path | str, source: Source) -> Iterator[None]:
    """Turns what a damaged or unreadable archive raises into an error that names the file."""
    try:
        yield
    except DataError:
        raise
    # ValueError and RuntimeError are zipfile's for damaged names and unknown versions.
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error or type(error).__name__})",
            f"a complete {Path(path).name}",
            source.again,
        ) from error


@contextmanager
def opened(path: Path, source: Source) -> Iterator[IO[bytes]]:
    """A file's content, decompressed if it is gzip's; a pickle is refused."""
    with reading(path, source):
        if is_pickle(path):
            raise refuse(path, source)
        with os.fdopen(open_regular(path), "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                yield file
                return
            with gzip.GzipFile(fileobj=file) as inner:
                yield cast("IO[bytes]", inner)


def read(path: Path, allowance: Allowance) -> bytes:
    """The bytes of a file, decompressed if it is gzip's, as far as the set's allowance goes."""
    with opened(path, allowance.source) as file:
        data = file.read(allowance.left + 1)
    if len(data) > allowance.left:
        raise allowance.refuse(f"{path} holds more than {allowance.left} bytes")
    allowance.take(path, len(data))
    return data


def check_labels(where: Path | str, labels: Array, low: int, high: int, source: Source) -> None:
    """Refuses a label outside `low` .. `high`, naming the file and the first such image."""
    # Said so that NaN is outside too.
    wrong = np.flatnonzero(~((labels >= low) & (labels <= high)))
    if wrong.size:
        raise DataError(
            f"{where} has the label {labels[wrong[0]]} at image {wrong[0]}",
            f"{low} to {high}",
            f"this is no file of {source.name}, or a damaged one: {source.get}",
        )
