"""MNIST and Fashion-MNIST: four IDX files, plain or gzipped, or the npz archive of Keras."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fastdarts.data.files import (
    Allowance,
    Array,
    Part,
    Source,
    check_labels,
    check_zip,
    folder_of,
    not_found,
    read,
    reading,
    refuse,
    start,
)
from fastdarts.data.imageset import DataError
from fastdarts.data.npy import read_header
from fastdarts.reading import open_regular

__all__ = ["FASHION_MNIST", "MNIST", "Idx", "read_idx"]

_SIDE = 28
_FILES = (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))
_ENCRYPTED = 1  # bit 0 of a zip entry's flags
_ARRAYS = (("x_train", "y_train"), ("x_test", "y_test"))


@dataclass(frozen=True)
class Idx:
    """One of the two sets; their files have the same names, so that folders tell them apart.

    Args:
        source: the archive.
        folders: where torchvision and Keras put the files, beneath the folder that they are given.
        npz: names of the Keras archive.
    """

    source: Source
    folders: tuple[str, ...]
    npz: tuple[str, ...]


MNIST = Idx(
    Source(
        "mnist",
        "train-images-idx3-ubyte.gz (and its three companions) or mnist.npz",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        10,
        (60000, 10000),
        image_bytes=_SIDE * _SIDE + 1,
    ),
    ("MNIST/raw", "MNIST", "mnist", "raw"),
    ("mnist.npz",),
)
FASHION_MNIST = Idx(
    Source(
        "fashion-mnist",
        "train-images-idx3-ubyte.gz (and its three companions)",
        "https://github.com/zalandoresearch/fashion-mnist",
        10,
        (60000, 10000),
        image_bytes=_SIDE * _SIDE + 1,
    ),
    ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "raw"),
    ("fashion-mnist.npz", "fashion_mnist.npz"),
)


def read_idx(root: str | os.PathLike[str] | None, layout: Idx) -> tuple[Part, Part]:
    """Images and labels of the training and the test part.

    Args:
        root: an npz archive, one of the four IDX files, the folder that holds them, or the folder given to
            torchvision or Keras.
        layout: `MNIST` or `FASHION_MNIST`.

    Returns:
        (images [N, 1, 28, 28] uint8, labels [N]) twice.

    Raises:
        DataError: for files that are missing, pickled, damaged or of the other set.

    Source: http://yann.lecun.com/exdb/mnist, "File formats"; `numpy.lib.format`.
    """
    path = start(root, layout.source)
    if path.is_file() and path.suffix == ".npz":
        _refuse_other(path, layout)
        return _read_npz(path, layout)
    folder = folder_of(path, layout.source, [name for stem, dims in _FILES for name in _spellings(stem, dims)])
    for inner in (*layout.folders, "."):
        place = folder / inner
        files = [_find(place, *file) for file in _FILES]
        if any(files):
            _refuse_other(place, layout)
            return _read_files(place, files, layout)
        for name in layout.npz:
            if (place / name).is_file():
                return _read_npz(place / name, layout)
    raise not_found(folder, layout.source, (layout.npz[0], "train-images-idx3-ubyte.gz", f"{layout.folders[0]}/"))


def _find(place: Path, stem: str, dims: int) -> Path | None:
    return next((place / name for name in _spellings(stem, dims) if (place / name).is_file()), None)


def _spellings(stem: str, dims: int) -> list[str]:
    return [f"{stem}{mark}idx{dims}-ubyte{end}" for mark in "-." for end in ("", ".gz")]


def _refuse_other(place: Path, layout: Idx) -> None:
    """The two sets' files look alike; a folder or archive named after the other one is a mistake worth stopping."""
    path = place.resolve()
    title = (path.parent if path.name == "raw" else path).stem.lower().replace("-", "").replace("_", "")
    if title in ("mnist", "fashionmnist") and title != layout.source.name.replace("-", ""):
        raise DataError(f"{place} is named after another set", f"files of {layout.source.name}", layout.source.get)


def _read_files(place: Path, files: list[Path | None], layout: Idx) -> tuple[Part, Part]:
    missing = [f"{stem}-idx{dims}-ubyte" for (stem, dims), file in zip(_FILES, files, strict=True) if file is None]
    if missing:
        raise DataError(f"{place} lacks {', '.join(missing)}", "the four IDX files, plain or .gz", layout.source.get)
    there = [file for file in files if file is not None]
    allowance = Allowance(layout.source)
    arrays = [_read_array(file, dims, layout, allowance) for file, (_, dims) in zip(there, _FILES, strict=True)]
    train, test = (_part(str(there[at]), arrays[at], str(there[at + 1]), arrays[at + 1], layout) for at in (0, 2))
    return train, test


def _read_array(path: Path, dims: int, layout: Idx, allowance: Allowance) -> Array:
    again = layout.source.again
    data = read(path, allowance)
    head = 4 + 4 * dims
    if len(data) < head:
        raise DataError(f"{path} has {len(data)} bytes", f"an IDX header of {head} bytes", again)
    magic, *shape = struct.unpack_from(f">{1 + dims}I", data)
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions.
    if magic != 0x800 + dims:
        expected = f"0x{0x800 + dims:08x}, an IDX file of {dims} dimension(s)"
        raise DataError(f"{path} begins with 0x{magic:08x}", expected, again)
    if len(data) - head != math.prod(shape):
        raise DataError(
            f"{path} holds {len(data) - head} bytes of values", f"{math.prod(shape)} for its header's {shape}", again
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def _read_npz(path: Path, layout: Idx) -> tuple[Part, Part]:
    allowance = Allowance(layout.source)
    with (
        reading(path, layout.source),
        os.fdopen(open_regular(path), "rb") as file,
        _directory(path, file) as archive,
    ):
        inside = archive.namelist()
        missing = [name for pair in _ARRAYS for name in pair if f"{name}.npy" not in inside]
        if missing:
            raise DataError(
                f"{path} lacks {', '.join(missing)}; it holds {', '.join(inside[:8]) or 'nothing'}",
                "x_train, y_train, x_test, y_test as in Keras' mnist.npz",
                layout.source.get,
            )
        parts = [[_read_member(path, archive, name, layout, allowance) for name in pair] for pair in _ARRAYS]
    train, test = (
        _part(f"{path}: {names[0]}", images, f"{path}: {names[1]}", labels, layout)
        for names, (images, labels) in zip(_ARRAYS, parts, strict=True)
    )
    return train, test


def _directory(path: Path, file: IO[bytes]) -> zipfile.ZipFile:
    check_zip(path, file)
    return zipfile.ZipFile(file)


def _read_member(path: Path, archive: zipfile.ZipFile, name: str, layout: Idx, allowance: Allowance) -> Array:
    where, again = f"{path}: {name}", layout.source.again
    member = archive.getinfo(f"{name}.npy")
    plain = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & _ENCRYPTED
    if not plain:
        what = f"{where} is of compression type {member.compress_type}, {member.file_size} bytes"
        raise DataError(what, "a stored or deflated array", again)
    allowance.take(where, member.file_size)
    data = archive.read(member)
    try:
        shape, fortran, kind, start = read_header(data)
        dtype = np.dtype(kind)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} has no numpy header ({error})", "a plain numpy array", again) from error
    if dtype.hasobject:
        raise refuse(path, layout.source)
    size = len(data) - start
    if dtype.kind not in "ui" or math.prod(shape) * dtype.itemsize != size:
        raise DataError(f"{where} is {dtype}, {list(shape)}, in {size} bytes", "integers, complete", again)
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def _part(image_file: str, images: Array, label_file: str, labels: Array, layout: Idx) -> Part:
    again = layout.source.again
    if images.ndim != 3 or images.shape[1:] != (_SIDE, _SIDE) or images.dtype != np.uint8 or not len(images):
        raise DataError(f"{image_file} is {images.dtype}, {list(images.shape)}", f"uint8, [N, {_SIDE}, {_SIDE}]", again)
    if labels.shape != images.shape[:1]:
        raise DataError(f"{label_file} has {list(labels.shape)} labels", f"[{len(images)}], one an image", again)
    check_labels(label_file, labels, 0, layout.source.classes - 1, layout.source)
    return images[:, None], labels
