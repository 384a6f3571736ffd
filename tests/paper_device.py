"""A GPU of paper: Triton compiles for sm_90 and launches through its own path, on tensors of the CPU; nothing runs.

    import paper_device                       # with tests/ on the path, TRITON_INTERPRET unset, before any kernel
    paper = paper_device.install()            # Triton's driver is that of paper, backends triton and cuda are live
    with use_backend("triton"): ...           # shapes and dtypes are true, values are whatever memory held
    paper.launches()                          # kernel -> how often it was launched since `forget`
    paper.compiled, paper.failed              # what had to be compiled, and what could not be

What is real: the choice of variants (ones, multiples of 16, None, tuples), the front end, ptxas, the checks of shared
memory and threads, the launcher's C code with its argument block, and over tests/paper/libcuda.cpp the limits of grids.
With `stages="front"` a kernel is compiled to Triton's IR and no further, 0.2 s instead of seconds: that is where what
interpreted kernels cannot show is found. With `stages="kinds"` only variants that show something new are: see `Kinds`.
CUDA C++ goes through the host code of csrc/cuda, built by tests/shim, up to the launch. One process has one paper
device, and no other.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

__all__ = ["Compiled", "Failed", "Paper", "install"]

SHARED = 227 << 10
_SOURCE = Path(__file__).parent / "paper/libcuda.cpp"


@dataclass(frozen=True)
class Compiled:
    """A variant of a kernel that had to be compiled.

    Args:
        kernel: its name.
        key: what it is compiled for: types, specialisations, constants and options.
        seconds: what that took, of the processor.
        cached: whether Triton's cache on disk had it.
        shared: bytes of shared memory; 0 where only the front end ran.
    """

    kernel: str
    key: str
    seconds: float
    cached: bool = False
    shared: int = 0


@dataclass(frozen=True)
class Failed:
    """A variant that does not compile, or may not be launched: its name, what it is compiled for, and why."""

    kernel: str
    key: str
    error: str

    def __str__(self) -> str:
        return f"{self.kernel}: {self.error}"


@dataclass
class Paper:
    """What happened on the paper device.

    Args:
        library: the libcuda of paper.
        compiled: every variant that had to be compiled since `forget`, in order.
        left: how many were not, because `Kinds` knew them.
        failed: every variant that could not be, where `install` was told to go on.
    """

    library: ctypes.CDLL
    compiled: list[Compiled] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    left: int = 0
    taken: Callable[[], Counter[str]] = Counter

    def launches(self) -> Counter[str]:
        """Launches since `forget` by kernel, Triton's and CUDA C++'s; a grid of no blocks is none."""
        every = range(self.library.paper_kernels())
        found: Counter[str] = Counter()
        for i in every:
            found[self.library.paper_name(i).decode()] += self.library.paper_launched(i)
        return +(found + self.taken())

    def facts(self, kernel: str) -> list[tuple[int, int]]:
        """Registers a thread and bytes of parameters of each variant of a kernel, as their binaries say."""
        library = self.library
        named = [i for i in range(library.paper_kernels()) if library.paper_name(i).decode() == kernel]
        return [(library.paper_registers(i), library.paper_parameters(i)) for i in named]

    def forget(self) -> None:
        """Count launches and compilations anew; what is compiled stays so."""
        self.library.paper_forget()
        self.taken().clear()
        self.compiled.clear()
        self.failed.clear()
        self.left = 0


def install(stages: str = "binary", *, keep_going: bool = False, launcher: bool = True, cuda: bool = True) -> Paper:
    """Make the paper device this process' GPU.

    Args:
        stages: `binary`, with ptxas; `front`, to Triton's IR alone; `kinds`, to it and of each kind of variant one.
        keep_going: whether what does not compile is put into `failed` and launched as nothing.
        launcher: without `binary`: whether Triton's C launcher is built and called, or only the grid checked.
        cuda: whether backend cuda is live too: needs a C++ compiler and builds csrc/cuda's host code, once.

    Raises:
        RuntimeError: Triton interprets its kernels in this process.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("Triton interprets: TRITON_INTERPRET must not be set before it is imported")
    if stages not in ("binary", "front", "kinds"):
        raise ValueError(f"stages is {stages!r}; expected binary, front or kinds")
    from triton.runtime import driver

    paper = Paper(_library())
    driver.set_active(_driver())
    _listen(paper)
    if stages != "binary":
        _stop_at_front(paper, launcher, Kinds() if stages == "kinds" else None)
    if keep_going:
        _keep_going(paper)
    _go_live(paper, cuda)
    return paper


@functools.cache
def _library() -> ctypes.CDLL:
    """Built once for each header of Triton's, and loaded so that whoever opens libcuda.so.1 gets this one."""
    import triton
    from cuda_shim import built

    include = Path(triton.__file__).parent / "backends/nvidia/include"
    flags = ("-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
    command = (os.environ.get("CXX", "g++"), *flags, "-isystem", str(include), "-Wl,-soname,libcuda.so.1")
    path = built("libcuda.so.1", [_SOURCE, include / "cuda.h"], [*command, str(_SOURCE)])
    os.environ["TRITON_LIBCUDA_PATH"] = str(path.parent)
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    for name in ("paper_said", "paper_name"):
        getattr(library, name).restype = ctypes.c_char_p
    library.paper_kernel.restype, library.paper_kernel.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    library.paper_launched.restype = ctypes.c_longlong
    grid = [ctypes.c_longlong] * 3
    library.paper_launch.argtypes = [ctypes.c_void_p, *grid, ctypes.c_uint]
    return library


def _driver() -> Any:
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils

    class Driver(CudaDriver):  # type: ignore[misc]
        """Triton's own, less what it asks of torch."""

        def __init__(self) -> None:
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
            self.get_device_capability = lambda device=0: (9, 0)
            self.get_current_stream = lambda device=0: 0
            self.get_current_device = lambda: 0
            self.set_current_device = lambda device: None

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    return Driver()


def _listen(paper: Paper) -> None:
    from triton import knobs

    def listener(*, src: Any, metadata: dict[str, Any], metadata_group: Any, times: Any, cache_hit: bool) -> None:
        seconds = times.total / 1e6
        found = Compiled(metadata["name"], str(metadata["hash"]), seconds, cache_hit, metadata.get("shared", 0))
        paper.compiled.append(found)

    knobs.compilation.listener = listener


class Kinds:
    """Which variants of kernels show nothing new to the front end.

    Each argument of a variant is of a kind: a type, None, a constant, a tuple of kinds. A variant is new where one of
    its arguments is of a kind that no variant of the kernel had before. Numbers from 2 to 8 are one kind, and those
    above, for they are sizes; tuples of three or more of one type; lists of numbers with the same kinds in them.
    """

    def __init__(self) -> None:
        self.seen: set[tuple[str, str, str]] = set()

    def new(self, kernel: str, signature: Mapping[str, Any], constants: Mapping[Any, Any], warps: int) -> bool:
        """Whether this variant is, from here on no longer."""
        found = {(kernel, name, str(self.of_type(kind))) for name, kind in signature.items()}
        found |= {(kernel, str(place), str(self.of_constant(value))) for place, value in constants.items()}
        found.add((kernel, "warps", str(warps)))
        new = not found <= self.seen
        self.seen |= found
        return new

    def of_type(self, kind: Any) -> Any:
        """A type's."""
        if isinstance(kind, tuple) and len(kind) > 3 and len(set(kind)) == 1:
            return kind[:3]
        return kind

    def of_constant(self, value: Any) -> Any:
        """A constant's."""
        if isinstance(value, tuple):
            found = tuple(map(self.of_constant, value))
            return sorted(set(map(str, found))) if len(found) > 8 else found
        if isinstance(value, int) and value > 1:
            return "up to 8" if value <= 8 else "a size"
        return value


class _Front:
    """A kernel whose front end is done, as Triton's launch path takes one.

    Args:
        paper: the device.
        source: of the kernel.
        options: it is compiled with.
        launcher: whether Triton's own launcher is called.
    """

    def __init__(self, paper: Paper, source: Any, options: Any, launcher: bool) -> None:
        self.library, self.threads = paper.library, 32 * options.num_warps
        self.function = self.library.paper_kernel(source.fn.__name__.encode())
        self.packed_metadata = (options.num_warps, 1, 0)
        self.launch = None
        if launcher:
            from triton.runtime import driver

            scratch = {f"{kind}_scratch_{what}": 0 for kind in ("global", "profile") for what in ("size", "align")}
            plain = {"launch_cooperative_grid": False, "launch_pdl": False, "tensordesc_meta": None}
            metadata = SimpleNamespace(**options.__dict__ | scratch | plain)
            self.launch = driver.active.launcher_cls(source, metadata)

    def launch_metadata(self, *_: Any) -> None:
        """None is asked."""

    def run(self, x: int, y: int, z: int, stream: int, *rest: Any) -> None:
        """Launch nothing, checked."""
        if self.launch is not None:
            self.launch(x, y, z, stream, *rest)
        elif x * y * z and self.library.paper_launch(self.function, x, y, z, self.threads):
            raise RuntimeError(self.library.paper_said().decode())


def _stop_at_front(paper: Paper, launcher: bool, kinds: Kinds | None) -> None:
    from triton._C.libtriton import ir
    from triton.runtime.jit import JITFunction

    def compile_front(
        self: Any, key: str, signature: Any, device: int, constexprs: Any, options: Any, attrs: Any, warmup: bool
    ) -> Any:
        caches = self.device_caches[device]
        target, backend = caches[2], caches[3]
        started = time.process_time()
        source = self.ASTSource(self, signature, constexprs, attrs)
        caches[0][key] = _Front(paper, source, options, launcher)
        if kinds is not None and not kinds.new(self.fn.__name__, signature, constexprs, options.num_warps):
            paper.left += 1
            return caches[0][key]
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        # Its checks of overflow are seven operations for each of ours, and do nothing outside Triton's debug mode.
        plain = replace(options, sanitize_overflow=False)
        source.make_ir(target, plain, backend.get_codegen_implementation(plain), backend.get_module_map(), context)
        paper.compiled.append(Compiled(self.fn.__name__, key, time.process_time() - started))
        return caches[0][key]

    JITFunction._do_compile = compile_front
    _without_formalities()


def _without_formalities() -> None:
    """A fifth of the front end's time: a signature is looked up at each call, and warnings are set at each node."""
    from triton.compiler import code_generator

    signature = functools.cache(inspect.signature)
    names = vars(inspect) | {"signature": lambda called: signature(getattr(called, "__func__", called))}
    code_generator.inspect = SimpleNamespace(**names)
    silent = {"catch_warnings": contextlib.nullcontext, "simplefilter": lambda *_: None}
    code_generator.warnings = SimpleNamespace(**vars(warnings) | silent)


class _Nothing:
    """What a kernel that does not compile is launched as."""

    function, packed_metadata = 0, ()

    def launch_metadata(self, *_: Any) -> None:
        """None is asked."""

    def run(self, *_: Any) -> None:
        """Nothing."""


def _keep_going(paper: Paper) -> None:
    from triton.runtime.jit import JITFunction

    compiling = JITFunction._do_compile

    def compile_or_note(self: Any, key: str, signature: Any, device: int, *rest: Any) -> Any:
        try:
            kernel = compiling(self, key, signature, device, *rest)
            if hasattr(kernel, "_init_handles"):
                kernel._init_handles()
        except Exception as error:
            paper.failed.append(Failed(self.fn.__name__, key, (str(error).strip() or repr(error)).splitlines()[-1]))
            kernel = self.device_caches[device][0][key] = _Nothing()
        return kernel

    JITFunction._do_compile = compile_or_note


def _go_live(paper: Paper, cuda: bool) -> None:
    """The backends triton and cuda run on tensors of the CPU where they are chosen."""
    from fastdarts import _backend

    home, table = _backend._home, _backend._table
    chosen = ("triton", "cuda") if cuda else ("triton",)

    def paper_table(*arguments: Any) -> dict[str, _backend.Backend]:
        live = {name: _backend.Backend(name, True, "on paper: nothing is computed", _backend._OPS) for name in chosen}
        return table(*arguments) | live

    _backend._gpu = lambda: _backend._Gpu("", "", True)
    _backend._table = paper_table
    _backend._home = lambda name, gpu: "cpu" if name in chosen else home(name, gpu)
    _backend._resolve.cache_clear()
    if cuda:
        from cuda_shim import shim

        from fastdarts.ops import _stencil_cuda

        module, counted = shim(), Counter()
        module.pretend(True)
        _stencil_cuda.core = lambda: module

        def taken() -> Counter[str]:
            counted.update(name for name, *_ in module.launches())
            return counted

        paper.taken = taken
