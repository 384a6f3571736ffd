"""Nested Python values as a flat dict of tensors and a JSON tree, and back without the loss of a bit.

In the tree, `null`, booleans, strings, integers below 2^53 and lists stand for themselves. Everything else is an object
of one key: `{"float": "0x1.8p+1"}`, `{"int": "0x..."}`, `{"tuple": [...]}`, `{"dict": {...}}` for string keys only,
`{"items": [[key, value], ...]}` for any keys, `{"counter": [[key, count], ...]}`, `{"tensor": name}`, and
`{"str": utf-8 in hex}` for strings that JSON cannot carry.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastdarts.runs.error import CheckpointError

__all__ = ["pack", "unpack"]

_DEEPEST = 100
_EXACT = 2**53
_DTYPES = frozenset(
    {
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
        torch.bool, torch.complex64,
    }
)  # fmt: skip


def pack(nested: object) -> tuple[dict[str, Tensor], Any]:
    """Split a nested value into tensors and a JSON tree, a snapshot that later changes of the value do not reach.

    Each tensor becomes a contiguous copy on the CPU, also where several shared one storage. An `OrderedDict` comes back
    as a dict, a `Parameter` as a plain tensor, a tensor in another memory format as a contiguous one.

    Args:
        nested: dict, list, tuple, Counter, int, float, bool, str, None and dense tensors, nested at most 100 deep;
            the keys of dicts are str, int, float, bool or None.

    Returns:
        tensors: by name, the name being the path to the tensor.
        tree: what `json` can write.

    Raises:
        TypeError: for any other type, with the path to it.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(nested, (), tensors)


def unpack(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Rebuild the value that `pack` split; the tensors themselves are put into it, not copies.

    Args:
        tensors: by name, as `pack` returned them.
        tree: as `pack` returned it, before or after a trip through JSON.

    Raises:
        CheckpointError: if the tree has a form that `pack` does not write or names a tensor that is not there.
    """
    if type(tree) is list:
        return [unpack(tensors, item) for item in tree]
    if type(tree) is not dict:
        return tree
    try:
        ((tag, body),) = tree.items()
        if tag == "dict":
            return {key: unpack(tensors, item) for key, item in body.items()}
        if tag == "items":
            return {unpack(tensors, key): unpack(tensors, item) for key, item in body}
        if tag == "counter":
            return Counter({unpack(tensors, key): unpack(tensors, item) for key, item in body})
        if tag == "tuple":
            return tuple(unpack(tensors, item) for item in body)
        if tag == "tensor":
            return tensors[body]
        if tag == "float":
            return _float(body)
        if tag == "int":
            return int(body, 16)
        if tag == "str":
            return bytes.fromhex(body).decode("utf-8", "surrogatepass")
    except KeyError as error:
        raise CheckpointError(f"the tree names the tensor {error}, which is not there") from error
    except CheckpointError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the tree holds {str(tree)[:80]!r}", "a form that pack writes") from error
    raise CheckpointError(f"the tree holds the tag {tag!r}", "a form that pack writes")


def _encode(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    if len(path) > _DEEPEST:
        raise TypeError(
            f"{_name(path[:8])}/... is nested more than {_DEEPEST} deep; is there a container that holds itself?"
        )
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if _plain(value) else {"str": value.encode("utf-8", "surrogatepass").hex()}
    if kind is int:
        return value if abs(value) < _EXACT else {"int": hex(value)}
    if kind is float:
        return {"float": _hex(value)}
    if kind is list:
        return [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
    if kind is tuple:
        return {"tuple": [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]}
    if kind is Counter:
        return {"counter": _items(value.items(), path, tensors)}
    if kind in (dict, OrderedDict):
        if all(type(key) is str and _plain(key) for key in value):
            return {"dict": {key: _encode(item, (*path, key), tensors) for key, item in value.items()}}
        return {"items": _items(value.items(), path, tensors)}
    if isinstance(value, Tensor):
        return {"tensor": _add(value, path, tensors)}
    raise TypeError(
        f"{_name(path)} is a {kind.__module__}.{kind.__qualname__}; expected dict, list, tuple, int, float, bool, str, "
        "None or a tensor; convert it first, with float(x) or int(x) for a number of numpy"
    )


def _items(
    pairs: Iterable[tuple[object, object]], path: tuple[str, ...], tensors: dict[str, Tensor]
) -> list[list[Any]]:
    encoded = []
    for key, item in pairs:
        if key is not None and type(key) not in (str, int, float, bool):
            raise TypeError(
                f"{_name(path)} has a key of type {type(key).__qualname__}; expected str, int, float, bool or None"
            )
        # Python refuses to write an integer of thousands of digits in decimal.
        label = hex(key) if type(key) is int and abs(key) >= _EXACT else str(key)
        encoded.append([_encode(key, path, tensors), _encode(item, (*path, label), tensors)])
    return encoded


def _add(value: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    known = type(value) in (Tensor, torch.nn.Parameter) and value.dtype in _DTYPES
    if not known or value.layout != torch.strided or value.is_meta:
        dtypes = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in _DTYPES))
        raise TypeError(
            f"{_name(path)} is a {type(value).__qualname__} of {value.dtype}, {value.layout}, on {value.device}; "
            f"expected a dense torch.Tensor of {dtypes}"
        )
    base = name = _name(path)
    copies = 1
    # Two paths can read alike ("a/b" beside "a", "b"; 1 beside "1"), and safetensors keeps one name for itself.
    while name in tensors or name == "__metadata__":
        copies += 1
        name = f"{base}#{copies}"
    dense = value.detach().resolve_conj().resolve_neg()
    tensors[name] = dense.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return name


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path).encode("utf-8", "backslashreplace").decode() or "value"


def _plain(text: str) -> bool:
    # A lone surrogate is no Unicode, and JSON would join two of them into one character.
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _hex(value: float) -> str:
    return value.hex() if value == value else f"nan:{struct.pack('>d', value).hex()}"


def _float(text: str) -> float:
    if text.startswith("nan:"):
        return float(struct.unpack(">d", bytes.fromhex(text[4:]))[0])
    return float.fromhex(text)
