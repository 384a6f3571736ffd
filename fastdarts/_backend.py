"""Which implementation runs: the choice, what is live, and why the rest is not."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import threading
import weakref
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import ModuleType, TracebackType

from fastdarts.errors import UserError

__all__ = [
    "NAMES",
    "Backend",
    "BackendError",
    "backend_for",
    "backends",
    "current_backend",
    "has_cuda",
    "native",
    "native_cuda",
    "native_failure",
    "use_backend",
]

NAMES = ("auto", "reference", "cpu", "triton", "cuda")
_OPS = ("augment", "stencil", "mixed_sum", "preprocess", "cell", "optim", "track")
_PLAIN = ("optim", "track")  # a few vectors a step: on a CPU plain torch is as good as a kernel
_HOMES = {"cpu": "cpu", "triton": "cuda", "cuda": "cuda"}
_PREFERENCE = ("cuda", "triton", "cpu", "reference")
_NO_CUDA = "fastdarts._C was built without CUDA", "reinstall where nvcc is on the PATH"
_LOG = logging.getLogger("fastdarts")
_LOCK = threading.Lock()


class BackendError(UserError, RuntimeError):
    """An explicit choice that is impossible here; a RuntimeError, and one line to a user of the command line."""


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    Args:
        name: `reference`, `cpu`, `triton` or `cuda`.
        live: whether it can run here, now.
        reason: why it is live, or why it is not and what would make it so.
        ops: the ops it implements.
    """

    name: str
    live: bool
    reason: str
    ops: tuple[str, ...]


@functools.cache
def _load_native() -> tuple[ModuleType | None, str]:
    from fastdarts import __version__

    # torch first: the extension's OpenMP calls then bind to the runtime that torch has already put into the
    # global scope, so that both share one pool of threads instead of two that spin against each other.
    importlib.import_module("torch")
    try:
        module = importlib.import_module("fastdarts._C")
    except ImportError as error:
        return None, f"fastdarts._C cannot be imported ({error}); reinstall where a C++17 compiler is on the PATH"
    built = getattr(module, "version", "unknown")
    if built != __version__:
        return None, f"fastdarts._C was built for version {built}, not for {__version__}; reinstall to rebuild it"
    return module, f"fastdarts._C, {module.build()['compiler']}"


def native() -> ModuleType | None:
    """The compiled module `fastdarts._C`, or None where it is missing, broken or built for another version."""
    return _load_native()[0]


def native_failure() -> str:
    """Why `native()` is None, with the remedy; empty where it is not."""
    module, reason = _load_native()
    return "" if module is not None else reason


def has_cuda(module: ModuleType) -> bool:
    """Whether a native core was built with its kernels in CUDA C++."""
    return hasattr(module, "cuda_stencil_forward_float32")


def native_cuda() -> ModuleType:
    """The compiled module with its kernels in CUDA C++.

    Raises:
        BackendError: it is missing, or was built without them.
    """
    module, reason = _load_native()
    if module is None:
        raise BackendError(reason)
    if not has_cuda(module):
        raise BackendError(*_NO_CUDA)
    return module


@dataclass(frozen=True)
class _Gpu:
    """What a GPU backend needs besides the native core.

    Args:
        device: why torch has no GPU that the kernels run on; "" where it has one.
        triton: why triton cannot be used; "" where it can.
        interpreted: whether triton interprets its kernels, on the CPU: what TRITON_INTERPRET=1 asks of it.
    """

    device: str
    triton: str
    interpreted: bool


@functools.cache
def _gpu() -> _Gpu:
    torch = importlib.import_module("torch")
    device = ""
    if not torch.cuda.is_available():
        device = "torch sees no GPU"
    elif torch.cuda.get_device_capability() < (8, 0):
        device = f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    found = importlib.util.find_spec("triton") is not None
    triton = "" if found else "triton is not installed; on Linux: pip install 'fastdarts[triton]'"
    return _Gpu(device, triton, found and os.environ.get("TRITON_INTERPRET") == "1")


def backends() -> dict[str, Backend]:
    """Every backend by name, live or not.

    `triton` has a kernel for every op; `cuda` takes the ones in CUDA C++ where there are any, and Triton's else. With
    TRITON_INTERPRET=1 in the environment `triton` runs on the CPU, slowly, where it is chosen: to check kernels.

    Returns:
        name -> Backend, in the order `auto` prefers from last to first: `reference`, `cpu`, `triton`, `cuda`.
    """
    return _table(_load_native(), _gpu())


def _table(loaded: tuple[ModuleType | None, str], gpu: _Gpu) -> dict[str, Backend]:
    module, reason = loaded
    triton = "" if gpu.interpreted else gpu.triton or gpu.device
    if gpu.interpreted:
        compiled = "kernels are interpreted on the CPU: TRITON_INTERPRET=1"
    elif module is None:
        compiled = reason
    elif not has_cuda(module):
        compiled = f"{_NO_CUDA[0]}; {_NO_CUDA[1]}"
    else:
        compiled = triton
    said = "Triton, interpreted on the CPU: slow, to check kernels" if gpu.interpreted else "Triton"
    return {
        "reference": Backend("reference", True, "plain torch, any device", _OPS),
        "cpu": Backend("cpu", module is not None, reason, () if module is None else (*module.ops, *_PLAIN)),
        "triton": Backend("triton", not triton, triton or said, () if triton else _OPS),
        "cuda": Backend("cuda", not compiled, compiled or "CUDA C++, and Triton", () if compiled else _OPS),
    }


@dataclass(frozen=True)
class _Call:
    """A plain call of `use_backend`, until it turns out to be a context manager."""

    name: str
    owner: weakref.ref[use_backend]


_calls: tuple[_Call, ...] = ()
_scoped: ContextVar[str | None] = ContextVar("fastdarts_backend", default=None)


class use_backend:
    """Chooses the backend for the process (a plain call) or for a block of one thread (a context manager).

    Args:
        name: `auto` (the fastest live one for the op and its device), `reference`, `cpu`, `triton` or `cuda`.

    Raises:
        BackendError: no backend has that name, or it is not live here; says what is live and why the other is not.

    Examples:
        >>> use_backend("reference")                # from here on, in every thread
        >>> with use_backend("cpu"):                # only in this block, only in this thread
        ...     ...
    """

    def __init__(self, name: str) -> None:
        global _calls
        self.name = _require(name)
        self._tokens: list[Token[str | None]] = []
        with _LOCK:
            # What decides is the newest call; an older one matters only while its object could still be entered.
            kept = [call for call in _calls[:-1] if call.owner() is not None] + list(_calls[-1:])
            _calls = (*kept, _Call(name, weakref.ref(self)))

    def __enter__(self) -> use_backend:
        global _calls
        with _LOCK:
            _calls = tuple(call for call in _calls if call.owner() is not self)
        self._tokens.append(_scoped.set(self.name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _scoped.reset(self._tokens.pop())

    def __repr__(self) -> str:
        return f"use_backend({self.name!r})"


def _live_names() -> str:
    return ", ".join(name for name, backend in backends().items() if backend.live)


def _require(name: str) -> str:
    if name not in NAMES:
        raise BackendError(f"no backend is called {name!r}", f"one of {', '.join(NAMES)}")
    if name != "auto" and not backends()[name].live:
        raise BackendError(f"backend {name!r} is not live: {backends()[name].reason}; live here: {_live_names()}")
    return name


def _chosen() -> str:
    scoped = _scoped.get()
    if scoped is not None:
        return scoped
    calls = _calls
    return calls[-1].name if calls else "auto"


def current_backend() -> str:
    """The backend in force for tensors on the CPU: the chosen one, or what `auto` picks; never `auto`."""
    chosen = _chosen()
    if chosen != "auto":
        return chosen
    return "cpu" if native() is not None else "reference"


def backend_for(op: str, device: str) -> str:
    """The backend that an op runs on, decided by the choice in force and the tensors' device.

    Args:
        op: the op's one word, for example `augment`.
        device: the tensors' device type, `cpu`, `cuda`, or `meta`: tensors without data go the way of those on the
            CPU, or on the chosen backend's own device, so that what would be allocated can be counted.

    Returns:
        The name of a live backend that implements the op on that device.

    Raises:
        BackendError: an explicit choice does not implement the op or does not run on that device.
    """
    return _resolve(_chosen(), op, device, _load_native(), _gpu())


@functools.cache  # every op asks at every call; and so each choice is logged once
def _resolve(chosen: str, op: str, device: str, loaded: tuple[ModuleType | None, str], gpu: _Gpu) -> str:
    table = _table(loaded, gpu)
    if device == "meta":
        device = _home(chosen, gpu) or "cpu"
    if chosen != "auto":
        _require_suited(table[chosen], op, device, gpu)
        _LOG.info("%s on %s: backend %s, as chosen", op, device, chosen)
        return chosen
    # An interpreted one runs where it is chosen, and nowhere else.
    homes = {**_HOMES, "triton": "nowhere"} if gpu.interpreted else _HOMES
    suited = (table[name] for name in _PREFERENCE if homes.get(name, device) == device)
    backend = next(backend for backend in suited if backend.live and op in backend.ops)
    # A machine without its kernels is slower than it need be, which must be seen without configuring logging.
    best = table["cpu" if device == "cpu" else "cuda" if table["triton"].live else "triton"]
    slower = backend.name in ("reference", "triton") and not best.live
    why = best.reason if slower else backend.reason
    _LOG.log(logging.WARNING if slower else logging.INFO, "%s on %s: backend %s (%s)", op, device, backend.name, why)
    return backend.name


def _home(name: str, gpu: _Gpu) -> str:
    """The type of the device that a chosen backend runs on; "" for any."""
    return "cpu" if name == "triton" and gpu.interpreted else _HOMES.get(name, "")


def _require_suited(backend: Backend, op: str, device: str, gpu: _Gpu) -> None:
    name, home = backend.name, _home(backend.name, gpu) or device
    if op not in backend.ops:
        raise BackendError(f"backend {name!r} has no {op}; it has {', '.join(backend.ops)}; use_backend('auto')")
    if home != device:
        what = f"backend {name!r} runs on {home} tensors, {op} got {device} ones"
        raise BackendError(f"{what}; move them or use_backend('auto')")
