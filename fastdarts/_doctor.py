"""The facts behind `fastdarts doctor`: what is installed, what is live, and why the rest is not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from fastdarts._backend import backends, current_backend, native, native_failure

__all__ = ["Fact", "as_dict", "report"]

Value: TypeAlias = "str | int | bool | list[str] | None"

_PACKAGES = {
    "numpy": "arrays in and out",
    "safetensors": "checkpoints",
    "typer": "the command line",
    "rich": "the command line",
    "scipy": "comparisons of runs",
    "matplotlib": "drawings and plots",
    "jinja2": "the pages of reports",
    "tensorboard": "event files",
}


@dataclass(frozen=True)
class Fact:
    """One line of the report.

    Args:
        section: `versions`, `host`, `backends`, `native`, `gpu` or `packages`.
        name: what is reported, unique within its section.
        value: what was found; None where there is nothing.
        ok: False where something is missing that would make fastdarts faster or more complete.
        note: why, and what to do about it.
    """

    section: str
    name: str
    value: Value
    ok: bool = True
    note: str = ""


def report() -> list[Fact]:
    """Everything worth knowing about this installation and this machine; asks devices, writes nothing.

    Returns:
        Facts in the order to print them, sections together; every value can be written as JSON.
    """
    return [*_versions(), *_host(), *_backends(), *_native(), *_gpu(), *_packages()]


def as_dict(facts: list[Fact]) -> dict[str, dict[str, dict[str, Value]]]:
    """The report as plain data, section -> name -> {value, ok, note}.

    Args:
        facts: what `report` returned.

    Returns:
        A dict that `json.dumps` accepts.
    """
    sections: dict[str, dict[str, dict[str, Value]]] = {}
    for fact in facts:
        sections.setdefault(fact.section, {})[fact.name] = {"value": fact.value, "ok": fact.ok, "note": fact.note}
    return sections


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[Fact]:
    from fastdarts import __version__

    triton = _version("triton")
    missing = "not installed; on Linux: pip install 'fastdarts[triton]'"
    return [
        Fact("versions", "fastdarts", __version__),
        Fact("versions", "python", platform.python_version()),
        Fact("versions", "torch", torch.__version__),
        Fact("versions", "triton", triton, triton is not None, "" if triton else missing),
    ]


def _host() -> list[Fact]:
    core = native()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    runtimes = _openmp_runtimes()
    crowded = "two OpenMP runtimes keep two pools of threads; import torch before anything else that uses OpenMP"
    facts = [
        Fact("host", "platform", platform.platform()),
        Fact("host", "processor", _processor()),
        Fact("host", "cores", usable, note=f"{os.cpu_count()} in the machine"),
        Fact("host", "threads", torch.get_num_threads(), note="torch.set_num_threads or OMP_NUM_THREADS sets it"),
        Fact("host", "torch instruction set", torch.backends.cpu.get_cpu_capability()),
        Fact("host", "OpenMP runtimes", runtimes, len(runtimes) < 2, crowded if len(runtimes) > 1 else ""),
    ]
    if core is not None:
        facts.insert(3, Fact("host", "instruction sets", core.instruction_sets()))
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match.group(1)
    return platform.processor() or platform.machine()


def _openmp_runtimes() -> list[str]:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = (line.split(maxsplit=5)[-1] for line in maps.read_text(encoding="utf-8").splitlines())
    return sorted({path for path in paths if re.search(r"/lib(gomp|omp|iomp5)[^/]*\.so", path)})


def _backends() -> list[Fact]:
    facts = [Fact("backends", "in force", current_backend(), note="for CPU tensors; fastdarts.use_backend chooses")]
    for backend in backends().values():
        value = "live" if backend.live else "not live"
        ops = f"; ops: {', '.join(backend.ops)}" if backend.ops else ""
        facts.append(Fact("backends", backend.name, value, backend.live, backend.reason + ops))
    return facts


def _native() -> list[Fact]:
    core = native()
    if core is None:
        return [Fact("native", "module", None, False, native_failure())]
    build = core.build()
    return [
        Fact("native", "module", core.__file__),
        Fact("native", "version", core.version),
        Fact("native", "compiler", build["compiler"]),
        Fact("native", "C++ standard", build["cxx_standard"]),
        Fact("native", "OpenMP", build["openmp"], build["openmp"] is not None, "" if build["openmp"] else "one thread"),
        Fact(
            "native",
            "CUDA runtime",
            build["cuda_runtime"],
            note="" if build["cuda_runtime"] else "no nvcc was found when it was built",
        ),
        Fact("native", "CUDA architectures", build["cuda_architectures"]),
    ]


def _gpu() -> list[Fact]:
    facts = [Fact("gpu", "torch's CUDA", torch.version.cuda, note="" if torch.version.cuda else "torch's CPU build")]
    core = native()
    if core is not None and hasattr(core, "cuda_devices"):
        count, error = core.cuda_devices()
        facts.append(Fact("gpu", "devices (native)", count, count > 0, error))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    why = str(caught[0].message) if caught else "torch.cuda.is_available() is False"
    facts.append(Fact("gpu", "devices (torch)", count, count > 0, "" if count else why))
    for number in range(count):
        device = torch.cuda.get_device_properties(number)
        note = f"sm_{device.major}{device.minor}, {device.multi_processor_count} SMs, {device.total_memory} bytes"
        facts.append(Fact("gpu", f"cuda:{number}", device.name, note=note))
    return facts


def _packages() -> list[Fact]:
    facts = []
    for name, purpose in _PACKAGES.items():
        version = _version(name)
        note = purpose if version else f"missing, needed for {purpose}: pip install {name}"
        facts.append(Fact("packages", name, version, version is not None, note))
    return facts
