"""Readers of the published archives, on tiny archives in their published layouts."""

from __future__ import annotations

import gzip
import io
import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from fastdarts.data import channel_statistics, load_images
from tests import data_layouts as layouts
from tests.data_layouts import (
    IDX,
    TARS,
    TRAIN,
    Arrays,
    check,
    cifar_records,
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


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    "form", ["archive", "archive's folder", "plain tar", "extracted", "around extracted", "one member", "dotted"]
)
def test_cifar(tmp_path: Path, name: str, form: str) -> None:
    archive, folder, files = TARS[name]
    data, expected = cifar_records(files)
    extras = {"batches.meta.txt": b"airplane\n", "readme.html": b"<html>"}
    if form in ("extracted", "around extracted", "one member"):
        place = write(tmp_path / folder, data | extras)
        root = {"extracted": place, "around extracted": tmp_path, "one member": place / files[0]}[form]
    else:
        inside = f"./{folder}" if form == "dotted" else folder
        packed = tar(extras | data, inside, "w" if form == "plain tar" else "w:gz")
        target = tmp_path / (archive.removesuffix(".gz") if form == "plain tar" else archive)
        target.write_bytes(packed)
        root = target if form in ("archive", "plain tar") else tmp_path
    before = sorted(tmp_path.rglob("*"))
    sets = load_images(name, root)
    check(sets, expected, 10 if name == "cifar10" else 100)
    assert sorted(tmp_path.rglob("*")) == before, "reading leaves nothing on the disk"
    measured = channel_statistics(sets[0].images)
    assert ((sets[0].mean, sets[0].std) == measured) == (name == "cifar100"), "CIFAR-10 has quark0's numbers"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("form", ["plain", "gz", "dots", "one file", "torchvision", "torchvision set", "keras", "raw"])
def test_idx(tmp_path: Path, name: str, form: str) -> None:
    arrays = mnist_arrays()
    files = idx_files(arrays)
    if form == "gz":
        files = {f"{file}.gz": gzip.compress(data) for file, data in files.items()}
    if form == "dots":
        files = {file.replace("-idx", ".idx"): data for file, data in files.items()}
    title = "MNIST" if name == "mnist" else "FashionMNIST"
    inside = {"torchvision": f"{title}/raw", "torchvision set": f"{title}/raw", "raw": f"{title}/raw", "keras": name}
    place = write(tmp_path / inside.get(form, ""), files)
    roots = {"one file": place / IDX[2], "torchvision set": tmp_path / title, "raw": place}
    check(load_images(name, roots.get(form, tmp_path)), arrays, 10)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_npz(tmp_path: Path, name: str, packed: bool) -> None:
    arrays = mnist_arrays()
    arrays["y_train"] = arrays["y_train"].astype(">i4")
    arrays["x_test"] = np.asfortranarray(arrays["x_test"])
    path = tmp_path / f"{name}.npz"
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    for root in (path, tmp_path):
        check(load_images(name, root), arrays, 10)


def test_torchvision_root_of_both(tmp_path: Path) -> None:
    first, second = mnist_arrays(1), mnist_arrays(2)
    write(tmp_path / "MNIST" / "raw", idx_files(first))
    write(tmp_path / "FashionMNIST" / "raw", idx_files(second))
    check(load_images("mnist", tmp_path), first, 10)
    check(load_images("fashion-mnist", tmp_path), second, 10)


@pytest.mark.parametrize("form", ["scipy", "scipy compressed", "little", "big", "big compressed", "double", "y double"])
def test_svhn(tmp_path: Path, form: str) -> None:
    arrays = svhn_arrays()
    files = {}
    for name, part in arrays.items():
        if form.startswith("scipy"):
            file = io.BytesIO()
            extra = {"note": "text", "cells": np.array([[1, "a"]], dtype=object)}
            scipy.io.savemat(file, extra | part, do_compression=form.endswith("compressed"))
            files[name] = file.getvalue()
            continue
        part = part | ({"y": part["y"].astype(float)} if form == "y double" else {})
        order = ">" if form.startswith("big") else "<"
        # MATLAB stores whole numbers of the class double (6) as bytes.
        classes = 6 if form == "double" else 9
        files[name] = mat(part, order=order, compressed=form != "little" and form != "big", classes=classes)
        theirs = scipy.io.loadmat(io.BytesIO(files[name]))
        assert np.array_equal(theirs["X"], part["X"]) and np.array_equal(theirs["y"], part["y"])
    write(tmp_path, files)
    expected: Arrays = {}
    for part_name, file_name in (("train", "train_32x32.mat"), ("test", "test_32x32.mat")):
        expected[f"x_{part_name}"] = arrays[file_name]["X"].transpose(3, 2, 0, 1)
        expected[f"y_{part_name}"] = arrays[file_name]["y"][:, 0] % 10
    assert sorted(expected["y_train"].tolist()) == list(range(10))
    for root in (tmp_path, tmp_path / "train_32x32.mat"):
        check(load_images("svhn", root), expected, 10)


def test_svhn_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "SVHN", {name: mat(part) for name, part in svhn_arrays().items()})
    assert len(load_images("svhn", tmp_path)[0]) == 10


def test_home_and_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sets", idx_files(mnist_arrays()))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_images("mnist", "~/sets")[0]) == TRAIN


def test_part_of_a_set_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, idx_files(mnist_arrays()))
    with caplog.at_level(logging.WARNING, "fastdarts"):
        load_images("mnist", tmp_path)
    assert "3 training images; the published set has 60000" in caplog.text
