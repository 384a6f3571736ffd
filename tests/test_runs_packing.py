"""pack and unpack: nothing is lost, through safetensors and JSON as on the disk."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastdarts.runs import CheckpointError, pack, unpack

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).tolist())


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure, order and every bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    return bool(a == b)


def through_disk(value: object) -> Any:
    tensors, tree = pack(value)
    stored = safetensors.torch.load(safetensors.torch.save(tensors))
    return unpack(stored, json.loads(json.dumps(tree, allow_nan=False)))


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = math.prod(shape) * dtype.itemsize
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


tensors = st.builds(
    random_tensor,
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 1000),
)
characters = st.characters(exclude_categories=())  # lone surrogates too
strings = st.text(characters, max_size=6)
numbers = st.floats(allow_nan=True) | st.integers() | st.integers(-(2**200), 2**200)
leaves = st.none() | st.booleans() | numbers | strings | tensors
keys = st.none() | st.booleans() | numbers | strings
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(strings, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, st.integers(0, 9), max_size=4).map(Counter)
    ),
    max_leaves=12,
)


@given(values)
def test_every_value_comes_back_bit_for_bit(value: Any) -> None:
    assert same(through_disk(value), value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_every_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = {"x": random_tensor(dtype, shape, 1)}
    assert same(through_disk(value), value)


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        {True: 1, "True": 2, None: 3, "None": 4},
        {"dict": {"tensor": "x"}, "tuple": [1], "float": "nan"},
        {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}},
        {"__metadata__": torch.tensor(1)},
        {"x": torch.tensor(1), "x#2": torch.tensor(2)},
        {1: torch.tensor(1), "1": torch.tensor(2)},
        torch.tensor(3.0),
        {"": torch.tensor(1.0), "value": torch.tensor(2.0)},
        [0.1, -0.0, 5e-324, math.inf, -math.inf, struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0]],
        [2**53 - 1, 2**53, -(2**53), 10**5000, {-(10**5000): torch.tensor(1)}],
        "\ud83d\ude00 two lone surrogates \U0001f600",
        (1, [2, (3,)], ()),
    ],
)
def test_what_a_naive_format_mixes_up(value: Any) -> None:
    assert same(through_disk(value), value)


def test_views_come_back_as_their_values() -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    complex_base = torch.complex(base, base + 1)
    state = {
        "transposed": base.transpose(0, 2),
        "slice": base[:, 1:, ::2],
        "expanded": base[:1, :1, :1].expand(2, 2, 2),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "conjugate": complex_base.conj(),
        "negative": complex_base.conj().imag,
        "whole": base,
        "part": base[0],
        "parameter": torch.nn.Parameter(base.clone()),
    }
    back = through_disk(state)
    for name, tensor in state.items():
        assert same(back[name], tensor.detach().resolve_conj().resolve_neg().contiguous()), name
        assert type(back[name]) is Tensor and not back[name].requires_grad


def test_pack_is_a_snapshot() -> None:
    weight = torch.zeros(3)
    packed = pack({"weight": weight, "again": weight})
    weight.fill_(1)
    assert same(unpack(*packed), {"weight": torch.zeros(3), "again": torch.zeros(3)})


def test_an_ordered_dict_comes_back_as_a_dict_in_order() -> None:
    assert same(through_disk(OrderedDict(b=1, a=2)), {"b": 1, "a": 2})


def test_names_tell_where_a_tensor_belongs() -> None:
    assert set(pack({"weights": {"stem.0.weight": torch.ones(1)}, "list": [torch.ones(1)]})[0]) == {
        "weights/stem.0.weight",
        "list/0",
    }


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [np.float64(1)]}, r"a/0 is a numpy.float64.*float\(x\)"),
        ({"a": {1, 2}}, "a is a builtins.set"),
        ({(1, 2): 3}, "key of type tuple"),
        ({"a": torch.Size([1])}, "a is a torch.Size"),
        ({"a": torch.zeros(2, device="meta")}, "on meta"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "sparse"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "complex128"),
    ],
)
def test_other_types_are_refused_by_path(value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        pack(value)


def test_a_container_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="holds itself"):
        pack({"a": loop})


@pytest.mark.parametrize(
    "tree",
    [
        {"tensor": "absent"},
        {"unknown": 1},
        {},
        {"float": "no number"},
        {"int": 1},
        {"items": [[1]]},
        {"items": [[[1], 2]]},
        {"dict": [1]},
        [{"tuple": None}],
        {"float": 1, "int": 2},
        {"dict": {"a": {"tuple": [{"unknown": 1}]}}},
    ],
    ids=str,
)
def test_a_tree_that_pack_does_not_write_is_refused(tree: Any) -> None:
    with pytest.raises(CheckpointError, match="tree"):
        unpack({}, tree)


@pytest.mark.gpu
def test_cuda_tensors_come_back_on_the_cpu() -> None:
    tensor = torch.randn(3, 4, device="cuda").t()
    assert same(through_disk({"x": tensor})["x"], tensor.cpu().contiguous())
