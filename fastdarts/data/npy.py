"""The header of a numpy file, read by its grammar: nothing is evaluated, no size is believed before it is checked."""

from __future__ import annotations

import math
import re

import numpy as np

__all__ = ["read_header"]

_MAGIC = b"\x93NUMPY"
# numpy itself reads no longer ones of strangers.
_LONGEST = 10_000
_HEADER = re.compile(
    r"\{'descr': '([^'\\]{1,20})', 'fortran_order': (True|False), 'shape': \(([0-9L, ]{0,700})\)[ ,]{0,64}\}\s*",
    re.ASCII,
)
_LENGTH = re.compile(r"([0-9]{1,18})L?", re.ASCII)


def read_header(data: bytes) -> tuple[tuple[int, ...], bool, str, int]:
    """Shape, whether columns come first, type and length of the header of a numpy file's content.

    Args:
        data: the content.

    Raises:
        ValueError: for what numpy does not write for a plain array.

    Source: numpy.lib.format, "Format Version 1.0" to "3.0".
    """
    if data[:6] != _MAGIC or len(data) < 12 or (data[6], data[7]) not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("it does not begin as one")
    start = 10 if data[6] == 1 else 12
    size = int.from_bytes(data[8:start], "little")
    if size > _LONGEST or len(data) < start + size:
        raise ValueError(f"it says it has {size} bytes")
    found = _HEADER.fullmatch(data[start : start + size].decode("latin-1"))
    if found is None:
        raise ValueError("it is not of the form that numpy writes for a plain array")
    parts = [part.strip(" ") for part in found[3].split(",")]
    lengths = [_LENGTH.fullmatch(part) for part in (parts[:-1] if parts[-1] == "" else parts)]
    shape = tuple(int(each[1]) for each in lengths if each is not None)
    if len(shape) != len(lengths):
        raise ValueError(f"its shape is ({found[3][:80]})")
    if math.prod(shape) >= 2**63:
        raise ValueError(f"its shape is {list(shape)}")
    np.dtype(found[1])
    return shape, found[2] == "True", found[1], start + size
