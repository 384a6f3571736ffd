"""Tiny archives in the published layouts, for the tests of the readers."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastdarts.data import DataError, ImageSet, load_images

CIFAR10 = [*(f"data_batch_{part}.bin" for part in range(1, 6)), "test_batch.bin"]
CIFAR100 = ["train.bin", "test.bin"]
TARS = {
    "cifar10": ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", CIFAR10),
    "cifar100": ("cifar-100-binary.tar.gz", "cifar-100-binary", CIFAR100),
}
IDX = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
TRAIN, TEST = 3, 2

Arrays = dict[str, np.ndarray[Any, Any]]
Files = dict[str, bytes]


def cifar_records(files: list[str], seed: int = 0) -> tuple[Files, Arrays]:
    """Two images a file, and what a reader is to make of them."""
    rng = np.random.default_rng(seed)
    data: Files = {}
    images, labels = [], []
    for name in files:
        image = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
        label = rng.integers(0, 10 if files is CIFAR10 else 100, 2, dtype=np.uint8)
        coarse = b"" if files is CIFAR10 else b"\x13"
        data[name] = b"".join(coarse + bytes([label[at]]) + image[at].tobytes() for at in range(2))
        images.append(image)
        labels.append(label)
    join = np.concatenate
    return data, {
        "x_train": join(images[:-1]),
        "y_train": join(labels[:-1]),
        "x_test": images[-1],
        "y_test": labels[-1],
    }


def tar(members: Files, folder: str = "", mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def mnist_arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", TRAIN), ("test", TEST)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 10, count, dtype=np.uint8)
    return arrays


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def idx_files(arrays: Arrays) -> Files:
    return {name: idx(arrays[key]) for name, key in zip(IDX, ("x_train", "y_train", "x_test", "y_test"), strict=True)}


def svhn_arrays(seed: int = 0) -> dict[str, Arrays]:
    rng = np.random.default_rng(seed)
    return {
        name: {
            "X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
            "y": rng.permutation(np.arange(1, 11, dtype=np.uint8))[:count, None],
        }
        for name, count in (("train_32x32.mat", 10), ("test_32x32.mat", TEST))
    }


def mat(arrays: Arrays, *, order: str = "<", compressed: bool = True, classes: int = 9, surplus: bytes = b"") -> bytes:
    """A MATLAB 5 file; unlike scipy's writer it has short elements, both byte orders and any class."""

    def element(kind: int, data: bytes) -> bytes:
        if len(data) <= 4:
            return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    kinds = {"u1": 2, "i2": 3, "u2": 4, "f8": 9}
    out = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", 0x100) + (b"IM" if order == "<" else b"MI")
    for name, array in arrays.items():
        body = element(6, struct.pack(f"{order}II", classes, 0))
        body += element(5, struct.pack(f"{order}{array.ndim}i", *array.shape)) + element(1, name.encode())
        kind = kinds[array.dtype.str[1:]]
        body += element(kind, array.astype(array.dtype.newbyteorder(order)).tobytes(order="F"))
        matrix = struct.pack(f"{order}II", 14, len(body)) + body
        packed = zlib.compress(matrix + surplus)
        out += struct.pack(f"{order}II", 15, len(packed)) + packed if compressed else matrix
    return out


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def check(sets: tuple[ImageSet, ImageSet], expected: Arrays, classes: int) -> None:
    for part, got in zip(("train", "test"), sets, strict=True):
        images = expected[f"x_{part}"]
        assert got.images.dtype == torch.uint8 and got.labels.dtype == torch.int64
        assert np.array_equal(got.images.numpy(), images if images.ndim == 4 else images[:, None])
        assert got.labels.tolist() == expected[f"y_{part}"].tolist()
        assert got.classes == classes
    assert (sets[0].mean, sets[0].std) == (sets[1].mean, sets[1].std)


def forbid_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


def fails(name: str, root: object, *parts: str) -> None:
    """The message names the file, what was found, what was expected and the remedy."""
    with pytest.raises(DataError) as error:
        load_images(name, root)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"
    assert "; expected " in str(error.value) and error.value.remedy
    assert "\n" not in str(error.value)
