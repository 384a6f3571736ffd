"""Archives that are small and would become large: refused before the memory is asked for."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdarts.data.cifar import CIFAR10
from fastdarts.data.idx import MNIST
from fastdarts.data.npy import read_header
from fastdarts.data.svhn import SVHN
from tests.data_layouts import cifar_records, fails, mnist_arrays

FOLDER = "cifar-10-batches-bin"
BIG = 3 << 30


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(f"{FOLDER}/{name}")
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def refused(tmp_path: Path, data: bytes, *words: str) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(data, 1))
    tracemalloc.start()
    try:
        fails("cifar10", tmp_path, *words)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_any_size_is_not_read(tmp_path: Path, kind: bytes) -> None:
    # What follows is not reached: 24 MiB are enough to be seen if they were read.
    data = header("x", BIG, kind) + bytes(24 << 20)
    refused(tmp_path, data, f"has headers of {BIG + 512} bytes; expected at most 1048576")


def test_many_headers_count_together(tmp_path: Path) -> None:
    refused(tmp_path, header("x", 0) * 4000, "has headers of", "expected at most 1048576")


def test_members_count_together_before_they_are_read(tmp_path: Path) -> None:
    limit = CIFAR10.source.limit
    data = header("data_batch_1.bin", limit + 1)
    refused(tmp_path, data, f"data_batch_1.bin has {limit + 1} bytes; expected at most {limit} in all")
    content = cifar_records(["data_batch_1.bin"] * 2)[0]["data_batch_1.bin"]
    first = header("data_batch_1.bin", len(content)) + content + bytes(-len(content) % 512)
    second = header("data_batch_2.bin", limit)
    refused(
        tmp_path, first + second, f"has {limit} bytes beside {len(content)} of other files; expected at most {limit}"
    )


def test_a_sparse_member_is_no_regular_file(tmp_path: Path) -> None:
    data = header("data_batch_1.bin", 512, tarfile.GNUTYPE_SPARSE) + bytes(2048)
    refused(tmp_path, data, "as a ", "one regular file")


def test_what_is_skipped_counts_too(tmp_path: Path) -> None:
    skipped = 2 * CIFAR10.source.limit
    refused(tmp_path, header("readme.txt", skipped) + bytes(4096), "goes on to byte", f"at most {skipped} bytes")


def test_the_limits_leave_room_for_the_published_sets() -> None:
    # Bytes that the readers take: files, and for SVHN what they decompress to.
    svhn = 182_040_794 + 64_275_384 + 73_257 * 3_073 + 26_032 * 3_073
    for source, size in {CIFAR10.source: 184_380_000, MNIST.source: 55_000_080, SVHN: svhn}.items():
        assert 2 * size < source.limit < 5 * size


# npz


def npz(path: Path, x_train: bytes) -> None:
    whole = io.BytesIO()
    np.savez(whole, **mnist_arrays())
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, x_train if name == "x_train.npy" else source.read(name))


def npy(text: str, size: int | None = None) -> bytes:
    length = (len(text) if size is None else size).to_bytes(2, "little")
    return b"\x93NUMPY\x01\0" + length + text.encode() + bytes(8)


PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': "


@pytest.mark.parametrize(
    "text",
    [
        PLAIN + "(3, 28, 28",
        '"""',
        "(" * 3000,
        PLAIN + "(" + "9" * 5000 + ",), }",
        PLAIN + "(" + "999999999999999999, " * 30 + "), }",
        PLAIN + "(-1, 28, 28), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '|u1', 'fortran_order': __import__('os'), 'shape': (3,), }",
        "\\\n",
        "",
    ],
)
def test_a_crafted_npz_header_is_refused(tmp_path: Path, text: str) -> None:
    npz(tmp_path / "mnist.npz", npy(text))
    fails("mnist", tmp_path, "x_train has no numpy header")
    npz(tmp_path / "mnist.npz", npy(text, 65535))
    fails("mnist", tmp_path, "x_train has no numpy header (it says it has 65535 bytes)")


@pytest.mark.parametrize("order", [np.asarray, np.asfortranarray])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 28, 28)])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8", "<f8"])
def test_what_numpy_writes_is_read_as_numpy_reads_it(
    order: Callable[..., Any], shape: tuple[int, ...], dtype: str
) -> None:
    array = order(np.ones(shape, dtype)).reshape(shape)
    for version in ((1, 0), (2, 0), (3, 0)):
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version)
        found, fortran, kind, start = read_header(file.getvalue())
        assert (found, np.dtype(kind)) == (shape, array.dtype)
        back = np.frombuffer(file.getvalue(), kind, offset=start).reshape(found, order="F" if fortran else "C")
        assert np.array_equal(back, array)


def test_a_zip_of_many_names_is_not_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "mnist.npz", "w") as archive:
        for number in range(12_000):
            archive.writestr(f"{number:060d}", b"")
    fails("mnist", tmp_path, "has a directory of 1272000 bytes", "at most 1048576")
