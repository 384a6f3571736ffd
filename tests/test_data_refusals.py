"""Archives that are missing, pickled, hostile or of another set: each is named and refused."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdarts.data import DataError, load_images, names
from fastdarts.errors import UserError
from tests import data_layouts as layouts
from tests.data_layouts import (
    CIFAR10,
    CIFAR100,
    IDX,
    TRAIN,
    Files,
    check,
    cifar_records,
    fails,
    mnist_arrays,
    tar,
    write,
)


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.forbid_pickle(monkeypatch)


def test_names_and_roots(tmp_path: Path) -> None:
    assert names() == ("digits", "cifar10", "cifar100", "svhn", "mnist", "fashion-mnist")
    assert issubclass(DataError, UserError)
    fails("CIFAR-10", None, "unknown data set 'CIFAR-10'", "did you mean 'cifar10'?")
    fails("imagenet", None, "'imagenet'", "digits, cifar10", "from_dataset")
    fails("digits", tmp_path, "leave the path out")
    for name, archive in (
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-binary.tar.gz"),
        ("svhn", "train_32x32.mat"),
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("fashion-mnist", "train-images-idx3-ubyte.gz"),
    ):
        fails(name, None, "without a path", archive, "http")
        fails(name, tmp_path / "nowhere", "nowhere does not exist", archive)
        fails(name, tmp_path, "is empty", archive)
        # What the file system refuses: a name too long, a user that is not there.
        fails(name, tmp_path / ("x" * 300), "x" * 300)
        fails(name, "~nobody-of-that-name/data", "~nobody-of-that-name/data cannot be read", "home directory")
    (tmp_path / "holiday.jpg").write_bytes(b"\xff\xd8")
    for name in names()[1:]:
        fails(name, tmp_path, "only holiday.jpg")
        fails(name, tmp_path / "holiday.jpg", "is no file of")
    with pytest.raises(TypeError):
        load_images("mnist", 3)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    ("name", "file", "safe"),
    [
        ("cifar10", "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
        ("cifar10", "renamed.tar.gz", "cifar-10-binary.tar.gz"),
        ("cifar10", "cifar-10-batches-py/data_batch_1", "cifar-10-binary.tar.gz"),
        ("cifar10", "train.pkl", "cifar-10-binary.tar.gz"),
        ("cifar10", "data_batch_1.bin", "cifar-10-binary.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
        ("cifar100", "cifar-100-python/train", "cifar-100-binary.tar.gz"),
        ("cifar100", "train.pickle", "cifar-100-binary.tar.gz"),
        ("svhn", "train_32x32.mat", "train_32x32.mat"),
        ("svhn", "svhn.pth", "train_32x32.mat"),
        ("mnist", "training.pt", "train-images-idx3-ubyte.gz"),
        ("mnist", "mnist.pkl.gz", "train-images-idx3-ubyte.gz"),
        ("mnist", "mnist.npz", "train-images-idx3-ubyte.gz"),
        ("fashion-mnist", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str, file: str, safe: str, protocol: int) -> None:
    target = tmp_path / "exploded"
    data = pickle.dumps(Bomb(target), protocol=protocol)
    if file.endswith(".tar.gz"):
        data = tar({"data_batch_1": data}, "cifar-10-batches-py")
    elif file.endswith(".npz"):
        packed = io.BytesIO()
        arrays = mnist_arrays() | {"y_train": np.array([Bomb(target)] * TRAIN, dtype=object)}
        np.savez(packed, allow_pickle=True, **arrays)
        data = packed.getvalue()
    path = tmp_path / "data" / file
    write(path.parent, {path.name: data})
    if name == "svhn" and file.endswith(".mat"):
        write(path.parent, {"test_32x32.mat": data})
    if file.startswith("train-images"):
        write(path.parent, dict.fromkeys(IDX, data))
    fails(name, path, "pickle can run any code", safe, "http")
    if path.parent.name == "data" and not file.startswith("renamed") and not file.endswith(".bin"):
        fails(name, tmp_path / "data", "pickle can run any code", safe)
    if path.parent.name != "data":
        fails(name, path.parent, "pickle can run any code", safe)
        fails(name, tmp_path / "data", path.parent.name, "pickle can run any code", safe)
    assert not target.exists()


def test_torch_checkpoint_under_another_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    fails("mnist", tmp_path / "mnist.npz", "pickle can run any code")


def test_safe_form_beside_a_pickled_one(tmp_path: Path) -> None:
    data, expected = cifar_records(CIFAR10)
    write(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"\x80\x02."})
    write(tmp_path, {"cifar-10-python.tar.gz": b"", "cifar-10-binary.tar.gz": tar(data, "cifar-10-batches-bin")})
    check(load_images("cifar10", tmp_path), expected, 10)


def cifar_edits() -> dict[str, tuple[Callable[[Files], Files], str]]:
    short = "6145 bytes; expected whole records of 3073 bytes"
    return {
        "cut": (
            lambda data: data | {"data_batch_3.bin": data["data_batch_3.bin"][:-1]},
            f"data_batch_3.bin has {short}",
        ),
        "empty": (lambda data: data | {"test_batch.bin": b""}, "test_batch.bin has 0 bytes"),
        "record short": (
            lambda data: data | {"data_batch_5.bin": data["data_batch_5.bin"][:3073]},
            "training files of 2, 2, 2, 2, 1 images",
        ),
        "label": (
            lambda data: data | {"data_batch_2.bin": data["data_batch_2.bin"][:3073] + b"\x0a" + bytes(3072)},
            "data_batch_2.bin has the label 10 at image 1; expected 0 to 9",
        ),
        "missing": (lambda data: {name: data[name] for name in CIFAR10 if "4" not in name}, "lacks data_batch_4.bin"),
    }


@pytest.mark.parametrize("edit", sorted(cifar_edits()))
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_cifar(tmp_path: Path, edit: str, packed: bool) -> None:
    change, message = cifar_edits()[edit]
    data = change(cifar_records(CIFAR10)[0])
    if packed:
        write(tmp_path, {"cifar-10-binary.tar.gz": tar(data, "cifar-10-batches-bin")})
    else:
        write(tmp_path / "cifar-10-batches-bin", data)
    fails("cifar10", tmp_path, str(tmp_path), message)


def test_coarse_label(tmp_path: Path) -> None:
    data, _ = cifar_records(CIFAR100)
    write(tmp_path, data | {"test.bin": b"\x14" + data["test.bin"][1:]})
    fails("cifar100", tmp_path, "test.bin has the label 20 at image 0; expected 0 to 19")


def test_other_cifar(tmp_path: Path) -> None:
    write(tmp_path, {"cifar-100-binary.tar.gz": tar(cifar_records(CIFAR100)[0], "cifar-100-binary")})
    fails("cifar10", tmp_path, "only cifar-100-binary.tar.gz", "cifar-10-binary.tar.gz")
    fails("cifar10", tmp_path / "cifar-100-binary.tar.gz", "lacks data_batch_1.bin", "cifar-100-binary/train.bin")


@pytest.mark.parametrize("keep", [0, 1, 20, 200, 5000, -9])
def test_truncated_tar(tmp_path: Path, keep: int) -> None:
    data = tar(cifar_records(CIFAR10)[0], "cifar-10-batches-bin")
    write(tmp_path, {"cifar-10-binary.tar.gz": data[:keep]})
    fails("cifar10", tmp_path, "cifar-10-binary.tar.gz cannot be read", "download it again")


def test_truncated_plain_tar(tmp_path: Path) -> None:
    data = tar(cifar_records(CIFAR10)[0], "cifar-10-batches-bin", "w")
    end = data.index(b"test_batch.bin") + 512 + 1000
    write(tmp_path, {"cifar-10-binary.tar": data[:end]})
    fails("cifar10", tmp_path, "cifar-10-binary.tar cannot be read", "download it again")


def test_tar_checksum(tmp_path: Path) -> None:
    data = bytearray(tar(cifar_records(CIFAR10)[0], "cifar-10-batches-bin"))
    data[-8] ^= 1
    write(tmp_path, {"cifar-10-binary.tar.gz": bytes(data)})
    fails("cifar10", tmp_path, "cannot be read", "CRC")


@pytest.mark.parametrize("prefix", ["../cifar-10-batches-bin", "/cifar-10-batches-bin", "cifar-10-batches-bin/deeper"])
def test_tar_members_elsewhere_are_not_taken(tmp_path: Path, prefix: str) -> None:
    write(tmp_path, {"cifar-10-binary.tar.gz": tar(cifar_records(CIFAR10)[0], prefix)})
    fails("cifar10", tmp_path, "lacks data_batch_1.bin", prefix)
    assert os.listdir(tmp_path) == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize("kind", ["link", "huge", "twice"])
def test_hostile_tar(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(3073))
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        if kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, str(secret)
            archive.addfile(info)
        elif kind == "huge":
            info.size = 1 << 40
            archive.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        else:
            for _ in range(2):
                info.size = 3073
                archive.addfile(info, io.BytesIO(bytes(3073)))
    write(tmp_path, {"cifar-10-binary.tar.gz": file.getvalue()})
    said = {"link": ("entry of type", "one regular file"), "twice": ("twice", "one regular file")}
    fails("cifar10", tmp_path, *said.get(kind, (f"has {1 << 40} bytes", "4 times the published cifar10")))
