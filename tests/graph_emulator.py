"""A CUDA graph's stand-in on the CPU: records the operations of a function, computes nothing, and does them again.

What it shares with a real graph: recording leaves no trace in memory or generators; every tensor that the function made
keeps its place, and holds nothing until the first replay; numbers of Python are those of the recording; whoever asks
for a value, or brings data of Python's, fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Emulator", "HostAsked", "nothing_asked"]

ASKS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique", "_unique2", "unique_dim")
METHODS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class HostAsked(RuntimeError):
    """The host asked the device for a value, or gave it one, where a graph would be captured."""


def _refuse(func: Any, args: tuple[Any, ...]) -> None:
    name = func.overloadpacket.__name__
    # A number of Python's that becomes a scalar tensor stays on the host; a list would be copied to the device.
    if name in ASKS or (name == "lift_fresh" and args[0].numel() > 1):
        raise HostAsked(name)


class _Asking(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _refuse(func, args)
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_asked() -> Iterator[None]:
    """Raises :class:`HostAsked` in the block, also inside library operations, which a dispatch mode does not see."""

    def asked(name: str) -> Callable[..., Any]:
        def method(*_: Any) -> Any:
            raise HostAsked(f"Tensor.{name}")

        return method

    with pytest.MonkeyPatch.context() as patch, _Asking():
        for name in METHODS:
            patch.setattr(Tensor, name, asked(name), raising=False)
        yield


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse(func, args)
        given = {_place(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for tensor in _written(func, args, kwargs):
            if _place(tensor) not in self.made and _place(tensor) not in self.before:
                whole = _whole(tensor)
                self.before[_place(tensor)] = whole, whole.clone()
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _place(tensor) not in given:
                self.made[_place(tensor)] = _whole(tensor)
        return out

    def forget(self) -> None:
        """As if nothing had been computed."""
        for whole, bits in self.before.values():
            whole.copy_(bits)
        for whole in self.made.values():
            whole.fill_(255)

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                kept = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
                given = {_place(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
                if not _written(func, args, kwargs) and all(_place(each) in given for each in kept):
                    continue  # a view
                again = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
                for own, new in zip(kept, again, strict=True):
                    if _place(own) != _place(new):
                        own.copy_(new)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _whole(tensor: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    # Its schema does not say that it moves the running statistics.
    found = list(args[3:5]) if func is torch.ops.aten.native_batch_norm.default else []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [each for each in tree_leaves(value) if isinstance(each, Tensor)]
    return found


class Emulator:
    """A :class:`fastdarts.search.graph.Recorder` on the CPU.

    Args:
        fail_at: number of the recording that fails, from 1.
    """

    def __init__(self, fail_at: float = math.inf) -> None:
        self.failed, self.fail_at = False, fail_at
        self.warm_ups = self.recorded = self.replays = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None] | None:
        generator, recording = torch.get_rng_state(), _Recording()
        with recording:
            work()
        recording.forget()
        torch.set_rng_state(generator)
        self.recorded += 1
        if self.recorded == self.fail_at:
            self.failed = True
            return None

        def replay() -> None:
            self.replays += 1
            recording.replay()

        return replay
