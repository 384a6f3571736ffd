"""CIFAR-10 and CIFAR-100 in their binary version: a tar archive, or the folder extracted from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fastdarts.data.files import Allowance, Part, Source, check_labels, folder_of, not_found, read, refuse, start
from fastdarts.data.imageset import DataError
from fastdarts.data.tar import members

__all__ = ["CIFAR10", "CIFAR100", "Cifar", "read_cifar"]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar:
    """One of the two sets' layout: a record is its label bytes, then 1024 bytes each of red, green and blue.

    Args:
        source: the archive.
        folder: inside it.
        train, test: the parts' files.
        ranges: number of classes of each label byte; the last byte is the class that is used.
    """

    source: Source
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    ranges: tuple[int, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test


CIFAR10 = Cifar(
    Source(
        "cifar10",
        "cifar-10-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        10,
        (50000, 10000),
        pickled=("cifar-10-python.tar.gz", "cifar-10-batches-py"),
        # quark0's numbers, so that a batch is theirs to the last bit; measured, they differ in the seventh digit.
        mean=(0.49139968, 0.48215827, 0.44653124),
        std=(0.24703233, 0.24348505, 0.26158768),
    ),
    "cifar-10-batches-bin",
    tuple(f"data_batch_{part}.bin" for part in range(1, 6)),
    ("test_batch.bin",),
    (10,),
)
CIFAR100 = Cifar(
    Source(
        "cifar100",
        "cifar-100-binary.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        100,
        (50000, 10000),
        pickled=("cifar-100-python.tar.gz", "cifar-100-python"),
    ),
    "cifar-100-binary",
    ("train.bin",),
    ("test.bin",),
    (20, 100),
)


def read_cifar(root: str | os.PathLike[str] | None, layout: Cifar) -> tuple[Part, Part]:
    """Images and labels of the training and the test part.

    Args:
        root: the archive, a folder that holds it, the extracted folder, or the folder around that.
        layout: `CIFAR10` or `CIFAR100`.

    Returns:
        (images [N, 3, 32, 32] uint8, labels [N] uint8) twice.

    Raises:
        DataError: for files that are missing, pickled, damaged or of another set.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    path = start(root, layout.source)
    archives = (layout.source.archive, layout.source.archive.removesuffix(".gz"))
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return _parts(str(path), _from_tar(path, layout), layout)
    folder = folder_of(path, layout.source, layout.files)
    for extracted in (folder, folder / layout.folder):
        if any((extracted / name).is_file() for name in layout.files):
            return _parts(str(extracted), _from_folder(extracted, layout), layout)
    for name in archives:
        if (folder / name).is_file():
            return _parts(str(folder / name), _from_tar(folder / name, layout), layout)
    raise not_found(folder, layout.source, (archives[0], f"{layout.folder}/"))


def _from_folder(folder: Path, layout: Cifar) -> dict[str, bytes]:
    missing = [name for name in layout.files if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}", ", ".join(layout.files), "extract the archive again")
    allowance = Allowance(layout.source)
    return {name: read(folder / name, allowance) for name in layout.files}


def _from_tar(path: Path, layout: Cifar) -> dict[str, bytes]:
    """The wanted members' bytes, in memory: nothing is extracted, so no member's path can lead anywhere."""
    found: dict[str, bytes] = {}
    seen: list[str] = []
    allowance = Allowance(layout.source)
    for member in members(path, allowance):
        name = PurePosixPath(member.name)
        if name.parts[:1] and name.parts[0] in layout.source.pickled:
            raise refuse(path, layout.source)
        seen.append(member.name)
        if str(name.parent) not in (".", layout.folder) or name.name not in layout.files:
            continue
        if not member.plain or name.name in found:
            what = "twice" if name.name in found else f"as a {member.size}-byte entry of type {member.kind!r}"
            raise DataError(f"{path} holds {member.name} {what}", "one regular file", layout.source.get)
        found[name.name] = member.read(allowance)
    missing = [name for name in layout.files if name not in found]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(seen[:8]) or 'nothing'}",
            f"{layout.folder}/ with {', '.join(layout.files)}",
            layout.source.get,
        )
    return found


def _parts(where: str, files: dict[str, bytes], layout: Cifar) -> tuple[Part, Part]:
    parts = {name: _records(f"{where}: {name}", files[name], layout) for name in layout.files}
    counts = [len(parts[name][1]) for name in layout.train]
    if len(set(counts)) > 1:
        raise DataError(
            f"{where} has training files of {', '.join(map(str, counts))} images",
            "the same number in each",
            f"one is cut short; {layout.source.again}",
        )
    train, test = ([parts[name] for name in names] for names in (layout.train, layout.test))
    return _join(train), _join(test)


def _join(parts: list[Part]) -> Part:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _records(where: str, data: bytes, layout: Cifar) -> Part:
    size = len(layout.ranges) + _PIXELS
    if not data or len(data) % size:
        raise DataError(
            f"{where} has {len(data)} bytes",
            f"whole records of {size} bytes ({len(layout.ranges)} of labels, {_PIXELS} of pixels)",
            layout.source.again,
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    for byte, classes in enumerate(layout.ranges):
        check_labels(where, records[:, byte], 0, classes - 1, layout.source)
    images = records[:, len(layout.ranges) :].reshape(-1, *_SHAPE)
    return images, records[:, len(layout.ranges) - 1]
