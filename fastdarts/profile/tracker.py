"""Live bytes over time: which tensors exist at each moment of a computation, on any device, meta included."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fastdarts.ops import maps
from fastdarts.profile.ledger import Ledger

__all__ = ["Tracker"]


class Tracker(TorchDispatchMode):
    """Counts the bytes of the storages that torch's operations and the fused ones make inside the `with` block.

    A storage counts once, from the operation that returns it until the last tensor on it is gone. What an operation
    allocates and frees inside its own kernel is not seen, except in the fused ones, which allocate through
    :mod:`fastdarts.ops.maps`. On the meta device the same storages exist, without memory.

    Args:
        given: tensors that exist anyway, such as parameters and inputs; they do not count.
        ledger: told of every storage, for a breakdown by part and operation.

    Attributes:
        live: bytes that exist now.
        peak: the largest `live` so far.
    """

    def __init__(self, given: Iterable[Tensor] = (), ledger: Ledger | None = None) -> None:
        super().__init__()
        # Held, so that no storage made later can take their identity.
        self._given = list(given)
        self._outside = {_storage(tensor) for tensor in self._given}
        self._sizes: dict[int, int] = {}
        self._kept: set[int] = set()
        self._inside = ExitStack()
        self._ledger = ledger
        self.live = 0
        self.peak = 0

    def __enter__(self) -> Tracker:
        super().__enter__()
        self._inside.enter_context(maps.observed(self.see))
        self._inside.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
        return self

    def __exit__(self, *error: Any) -> None:
        self._inside.close()
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outer = None if self._ledger is None else self._ledger.enter(_name(func))
        result = _as_on_cpu(func, args, self.run(func, args, kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.see(value)
        if self._ledger is not None and outer is not None:
            self._ledger.op = outer
        return result

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation."""
        return func(*args, **kwargs)

    def see(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, until it is freed."""
        key = _storage(tensor)
        if key in self._outside or key in self._sizes:
            return
        storage = tensor.untyped_storage()
        self._sizes[key] = storage.nbytes()
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        if self._ledger is not None:
            self._ledger.made(key, self._sizes[key])
        weakref.finalize(storage, self._freed, key).atexit = False

    def kept(self) -> int:
        """Bytes of the counted storages that autograd has kept and that still exist; asked before the backward pass."""
        found = [key for key in self._kept if key in self._sizes]
        if self._ledger is not None:
            self._ledger.keeps(found)
        return sum(self._sizes[key] for key in found)

    def _freed(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live -= size
        if self._ledger is not None:
            self._ledger.freed(key, size)
        self._kept.discard(key)

    def _pack(self, tensor: Tensor) -> Tensor:
        if _storage(tensor) in self._outside:
            return tensor
        self.see(tensor)
        self._kept.add(_storage(tensor))
        # An output that its own node keeps would be a cycle, which only the garbage collector frees.
        return tensor.detach()


def _as_on_cpu(func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
    """The result as a CPU has it, where torch's kernels without data give another layout or dtype and so other bytes.

    A convolution keeps channels_last, after which nothing is copied into that layout; batch norm keeps its statistics
    in the dtype of its weight.
    """
    if func is torch.ops.aten.convolution.default and result.is_meta:
        last = args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous()
        return result.contiguous(memory_format=torch.channels_last) if last else result
    if func is torch.ops.aten.native_batch_norm.default and result[0].is_meta:
        dtype = args[0].dtype if args[1] is None else args[1].dtype
        return result[0], result[1].to(dtype), result[2].to(dtype)
    return result


def _name(func: Callable[..., Any]) -> str:
    """`aten.convolution` of `aten.convolution.default`."""
    return str(func).rpartition(".")[0] or str(func)


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
