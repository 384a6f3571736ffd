"""Damaged MNIST and SVHN files: each is named, with what was found and what was expected."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdarts.data import DataError, load_images
from tests import data_layouts as layouts
from tests.data_layouts import (
    CIFAR10,
    IDX,
    TEST,
    TRAIN,
    Arrays,
    cifar_records,
    fails,
    idx_files,
    mat,
    mnist_arrays,
    svhn_arrays,
    tar,
    write,
)


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.forbid_pickle(monkeypatch)


def idx_edits() -> dict[str, tuple[str, Callable[[bytes], bytes], str]]:
    return {
        "magic": (IDX[0], lambda data: b"\0\0\x08\x01" + data[4:], "begins with 0x00000801; expected 0x00000803"),
        "type": (IDX[1], lambda data: b"\0\0\x0d\x01" + data[4:], "begins with 0x00000d01; expected 0x00000801"),
        "header": (IDX[2], lambda data: data[:15], "has 15 bytes; expected an IDX header of 16"),
        "empty file": (IDX[3], lambda data: b"", "has 0 bytes"),
        "cut": (IDX[0], lambda data: data[:-1], "2351 bytes of values; expected 2352"),
        "long": (IDX[1], lambda data: data + b"\0", "4 bytes of values; expected 3"),
        "declares more": (IDX[0], lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "4294967295"),
        "no images": (IDX[0], lambda data: struct.pack(">4I", 0x803, 0, 28, 28), "[0, 28, 28]"),
        "size": (IDX[0], lambda data: struct.pack(">4I", 0x803, 3, 14, 56) + data[16:], "[3, 14, 56]; expected uint8"),
        "labels fewer": (IDX[1], lambda data: struct.pack(">2I", 0x801, 2) + b"\0\0", "has [2] labels; expected [3]"),
        "label": (IDX[3], lambda data: data[:-1] + b"\x0a", "has the label 10 at image 1; expected 0 to 9"),
    }


@pytest.mark.parametrize("edit", sorted(idx_edits()))
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx(tmp_path: Path, edit: str, zipped: bool) -> None:
    name, change, message = idx_edits()[edit]
    files = idx_files(mnist_arrays())
    files[name] = change(files[name])
    if zipped:
        files = {f"{file}.gz": gzip.compress(data) for file, data in files.items()}
    write(tmp_path, files)
    fails("mnist", tmp_path, name, message)


def test_truncated_gz_and_missing_idx(tmp_path: Path) -> None:
    files = idx_files(mnist_arrays())
    zipped = gzip.compress(files[IDX[0]])
    write(tmp_path, {name: files[name] for name in IDX[1:]} | {f"{IDX[0]}.gz": zipped[:-20]})
    fails("mnist", tmp_path, f"{IDX[0]}.gz cannot be read", "download it again")
    (tmp_path / f"{IDX[0]}.gz").unlink()
    fails("mnist", tmp_path, f"lacks {IDX[0]}")


def test_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {f"{name}.gz": gzip.compress(data) for name, data in idx_files(mnist_arrays()).items()})
    monkeypatch.setattr("fastdarts.data.files.Source.limit", 1000)
    fails("mnist", tmp_path, "holds more than 1000 bytes; expected at most 1000 in all, 4 times the published mnist")
    monkeypatch.setattr("fastdarts.data.files.Source.limit", 2500)
    fails("mnist", tmp_path, "t10k-images-idx3-ubyte.gz holds more than 121 bytes beside 2379 of other files")


def test_one_mnist_taken_for_the_other(tmp_path: Path) -> None:
    place = write(tmp_path / "FashionMNIST" / "raw", idx_files(mnist_arrays()))
    fails("mnist", place, "named after another set")
    fails("mnist", tmp_path / "FashionMNIST", "named after another set")
    np.savez(tmp_path / "mnist.npz", **mnist_arrays())
    fails("fashion-mnist", tmp_path / "mnist.npz", "named after another set")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"

    def save(**changes: Any) -> None:
        np.savez(path, **{name: array for name, array in (mnist_arrays() | changes).items() if array is not None})

    save(y_test=None)
    fails("mnist", path, "lacks y_test", "x_train, y_train, x_test, y_test")
    save(x_train=np.zeros((TRAIN, 28, 28), dtype=np.float32))
    fails("mnist", path, "x_train is float32", "integers")
    save(x_train=np.zeros((TRAIN, 28, 28), dtype=np.uint16))
    fails("mnist", path, "x_train is uint16", "uint8")
    save(x_test=np.zeros((TEST, 784), dtype=np.uint8))
    fails("mnist", path, "x_test is uint8, [2, 784]", "[N, 28, 28]")
    save(y_train=np.array([0, 1, 10]))
    fails("mnist", path, "y_train has the label 10 at image 2")
    save(y_train=np.array([0, -1, 2]))
    fails("mnist", path, "y_train has the label -1 at image 1")
    save(y_train=np.zeros(TRAIN + 1, dtype=np.uint8))
    fails("mnist", path, "y_train has [4] labels; expected [3]")
    save()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails("mnist", path, "mnist.npz cannot be read", "download it again")
    spot = whole.index(mnist_arrays()["x_train"].tobytes())
    path.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
    fails("mnist", path, "cannot be read", "CRC")


def test_npz_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **mnist_arrays())
    members = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    members["x_train.npy"] = members["x_train.npy"].replace(b"(3, 28, 28)", b"(1<<40,)   ".replace(b"1<<40", b"9" * 5))
    for compression, message in (
        (zipfile.ZIP_STORED, "[99999], in 2352 bytes"),
        (zipfile.ZIP_LZMA, "compression type"),
    ):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        fails("mnist", path, "x_train", message)
    members["x_train.npy"] = b"no array"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    fails("mnist", path, "x_train has no numpy header")


def svhn_edits() -> dict[str, tuple[Callable[[Arrays], bytes], str]]:
    def whole(part: Arrays) -> bytes:
        return mat(part, compressed=False)

    return {
        "empty": (lambda part: b"", "no MATLAB 5 header"),
        "header only": (lambda part: whole(part)[:128], "lacks the variable X, y"),
        "cut": (lambda part: whole(part)[:-5], "is damaged"),
        "cut in a tag": (lambda part: whole(part) + b"\0" * 3, "ends inside a tag"),
        "cut stream": (lambda part: mat(part)[:-40], "is damaged"),
        "checksum": (lambda part: mat({"X": part["X"]})[:-1] + b"\0", "is damaged"),
        "longer than declared": (lambda part: mat(part, surplus=b"\0" * 8), "declares"),
        "description": (
            lambda part: whole(part).replace(struct.pack("<II", 5, 16), struct.pack("<II", 5, 12)),
            "is damaged",
        ),
        "no axes": (lambda part: mat({"X": np.zeros((), np.uint8)}), "the description of X"),
        "hdf5": (lambda part: b"MATLAB 7.3 MAT-file".ljust(512), "HDF5"),
        "version": (lambda part: whole(part)[:125] + b"\x02" + whole(part)[126:], "no MATLAB 5 header"),
        "no variable": (lambda part: whole(part) + struct.pack("<II8s", 2, 8, b"whatever"), "an element of type 2"),
        "no labels": (lambda part: mat({"X": part["X"]}), "lacks the variable y"),
        "label 0": (
            lambda part: mat(part | {"y": np.zeros_like(part["y"])}),
            "has the label 0 at image 0; expected 1 to 10",
        ),
        "label 11": (lambda part: mat(part | {"y": part["y"] + 10}), "expected 1 to 10"),
        "label half": (lambda part: mat(part | {"y": part["y"] * 0 + 1.5}), "y holds fractions"),
        "label nan": (lambda part: mat(part | {"y": part["y"] * np.nan}), "has the label nan"),
        "labels fewer": (lambda part: mat(part | {"y": part["y"][1:]}), "y is [1, 1]; expected [2, 1]"),
        "axes": (
            lambda part: mat(part | {"X": part["X"].transpose(3, 0, 1, 2)}),
            "[2, 32, 32, 3]; expected uint8, [32,",
        ),
        "type": (lambda part: mat(part | {"X": part["X"].astype(np.uint16)}), "X is uint16"),
        "class": (lambda part: mat(part, classes=1), "X is no real numeric array"),
        "complex": (lambda part: mat(part, classes=0x0809), "X is no real numeric array"),
        "size": (
            lambda part: whole(part).replace(b"\x03\0\0\0\x02", b"\x03\0\0\0\x7f"),
            "is damaged (X is [32, 32, 3, 127]",
        ),
    }


@pytest.mark.parametrize("edit", sorted(svhn_edits()))
def test_damaged_svhn(tmp_path: Path, edit: str) -> None:
    change, message = svhn_edits()[edit]
    arrays = svhn_arrays()
    files = {name: mat(part) for name, part in arrays.items()}
    write(tmp_path, files | {"test_32x32.mat": change(arrays["test_32x32.mat"])})
    fails("svhn", tmp_path, "test_32x32.mat", message)
    (tmp_path / "test_32x32.mat").unlink()
    fails("svhn", tmp_path, "lacks test_32x32.mat")


def test_mat_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {name: mat(part) for name, part in svhn_arrays().items()})
    monkeypatch.setattr("fastdarts.data.files.Source.limit", (tmp_path / "train_32x32.mat").stat().st_size + 1000)
    fails("svhn", tmp_path, "train_32x32.mat: a variable has", "of other files")


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist npz", "mnist"])
def test_no_damage_escapes(tmp_path: Path, name: str) -> None:
    """Whatever bytes are lost or changed, a reader either reads or says DataError; it never raises anything else."""
    if name == "cifar10":
        files = {"cifar-10-binary.tar.gz": tar(cifar_records(CIFAR10)[0], "cifar-10-batches-bin")}
    elif name == "svhn":
        files = {file: mat(part, compressed="test" in file) for file, part in svhn_arrays().items()}
    elif name == "mnist":
        files = idx_files(mnist_arrays())
    else:
        packed = io.BytesIO()
        np.savez_compressed(packed, **mnist_arrays())
        files = {"mnist.npz": packed.getvalue()}
    rng = np.random.default_rng(0)
    write(tmp_path, files)
    refused = 0
    for _ in range(60 // len(files)):
        for file, data in files.items():
            damaged = bytearray(data)
            # Half of the changes in the first 200 bytes, where the headers are.
            reach = len(data) if rng.random() < 0.5 else min(200, len(data))
            for spot in rng.integers(0, reach, 3):
                damaged[spot] = rng.integers(256)
            write(tmp_path, {file: bytes(damaged[: len(data) if rng.random() < 0.7 else reach])})
            try:
                load_images(name.split()[0], tmp_path)
            except DataError as error:
                refused += 1
                assert file in str(error)
            write(tmp_path, {file: data})
    assert refused > 20
