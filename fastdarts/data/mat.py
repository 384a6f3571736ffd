"""Numeric arrays of a MATLAB 5 file, read with every size checked.

`scipy.io.loadmat` reads these too, but a few damaged bytes in a header make it crash the whole process (scipy 1.17:
about one in a hundred files with three random header bytes changed ends in a segmentation fault), and a user is to be
told which file is damaged. The tests hold this reader against scipy's.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastdarts.data.files import Allowance, Array, read
from fastdarts.data.imageset import DataError

__all__ = ["read_mat"]

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORAGE = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# mxDOUBLE_CLASS .. mxUINT64_CLASS; below are cells, structs, objects, text and sparse matrices.
_NUMERIC = range(6, 16)
_COMPLEX = 0x0800


class _Damaged(Exception):
    """A size or a tag that does not fit; `read_mat` adds the file's name."""


def read_mat(path: Path, names: Sequence[str], allowance: Allowance) -> dict[str, Array]:
    """The real numeric arrays called `names`, in the type in which they are stored.

    Args:
        path: a MATLAB 5 to 7.2 file; 7.3 is HDF5 and refused.
        names: the variables wanted; others are skipped.
        allowance: of the set, for its file and what that decompresses to.

    Returns:
        Name to array, in MATLAB's shape, column-major.

    Raises:
        DataError: for another format, a damaged file, or a variable that is missing or not numeric.

    Source: MathWorks, "MAT-File Format", chapter 1.
    """
    source = allowance.source
    again = source.again
    data = memoryview(read(path, allowance))
    if bytes(data[:10]) == b"MATLAB 7.3":
        raise DataError(f"{path} is a MATLAB 7.3 file (HDF5)", "MATLAB 5 to 7.2", f"save it with -v7, or {source.get}")
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:_HEADER]))
    if order is None or data[125 if order == "<" else 124] != 1:
        raise DataError(f"{path} has no MATLAB 5 header", f"a file of {source.name}", again)
    found: dict[str, Array] = {}
    at = _HEADER
    try:
        while at < len(data):
            kind, body, at = _element(data, at, order)
            if kind == _COMPRESSED:
                kind, body, _ = _element(_inflate(path, body, order, allowance), 0, order)
            if kind != _MATRIX:
                raise _Damaged(f"an element of type {kind} where a variable should be")
            name, array = _matrix(body, order, names)
            if array is not None:
                found[name] = array
    except _Damaged as error:
        raise DataError(f"{path} is damaged ({error})", "a complete MATLAB 5 file", again) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{path} lacks the variable {', '.join(missing)}", " and ".join(names), again)
    return found


def _element(data: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """Type, content and end of the data element at `at`."""
    if len(data) < at + 8:
        raise _Damaged(f"it ends inside a tag at byte {at}")
    kind, size = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:
        # The short form keeps size and type in one word, up to four bytes of content in the next.
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise _Damaged(f"a short element of {size} bytes at byte {at}")
        return kind, data[at + 4 : at + 4 + size], at + 8
    end = at + 8 + size
    if end > len(data):
        raise _Damaged(f"the element at byte {at} declares {size} bytes, {len(data) - at - 8} follow")
    return kind, data[at + 8 : end], end if kind == _COMPRESSED else end + -size % 8


def _inflate(path: Path, body: memoryview, order: str, allowance: Allowance) -> memoryview:
    try:
        inflater = zlib.decompressobj()
        head = inflater.decompress(body, 8)
        size = struct.unpack(f"{order}II", head)[1] if len(head) == 8 else 0
        allowance.take(f"{path}: a variable", size)
        # One byte more than declared, so that too long a stream shows.
        rest = inflater.decompress(inflater.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise _Damaged(str(error)) from error
    if len(rest) != size or not inflater.eof:
        raise _Damaged(f"a variable declares {size} bytes and has {len(rest)}{'' if inflater.eof else ' or more'}")
    return memoryview(head + rest)


def _matrix(body: memoryview, order: str, names: Sequence[str]) -> tuple[str, Array | None]:
    _, flags, at = _element(body, 0, order)
    _, shape_bytes, at = _element(body, at, order)
    _, name_bytes, at = _element(body, at, order)
    name = bytes(name_bytes).decode("latin-1")
    if name not in names:
        return name, None
    if len(flags) != 8 or len(shape_bytes) % 4 or not 8 <= len(shape_bytes) <= 32:
        raise _Damaged(f"the description of {name}")
    (word,) = struct.unpack_from(f"{order}I", flags)
    if (word & 0xFF) not in _NUMERIC or word & _COMPLEX:
        raise _Damaged(f"{name} is no real numeric array")
    shape = struct.unpack(f"{order}{len(shape_bytes) // 4}i", shape_bytes)
    kind, values, _ = _element(body, at, order)
    if kind not in _STORAGE:
        raise _Damaged(f"{name} is stored as type {kind}")
    dtype = np.dtype(order + _STORAGE[kind])
    if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(values):
        raise _Damaged(f"{name} is {list(shape)} of {dtype.itemsize} bytes and has {len(values)}")
    return name, np.frombuffer(values, dtype).reshape(shape, order="F")
