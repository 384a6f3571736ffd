"""What a compiled GPU binary says of its kernels: registers, shared memory, stack, and the instructions in it.

Read by the toolkit's `cuobjdump`, or by the one that comes with triton: no GPU is asked.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Kernel", "demangled", "occupancy", "read_cubin", "tool"]

_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\S+?):?\s*$")
_USAGE = re.compile(r"\b(REG|STACK|SHARED):(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
# Multiply-adds of float32; the last one is Blackwell's, two at a time.
_FMA = ("FFMA", "FFMA2")
_MMA = ("HMMA", "HGMMA", "UTCHMMA", "UTCQMMA", "DMMA", "IMMA", "QGMMA")

# Of a multiprocessor: registers, bytes of shared memory, warps and blocks (CUDA programming guide, table of technical
# specifications); compute capability 8.0, 9.0 and 10.0.
_REGISTERS, _WARPS, _BLOCKS = 65536, 64, 32
_SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}


@dataclass
class Kernel:
    """One kernel of a binary.

    Args:
        name: as it is in the binary.
        registers: of a thread.
        shared: static shared memory, bytes.
        stack: local memory of a thread, bytes: registers that were spilled, or an array that registers cannot hold.
        spills: instructions that load from or store to local memory.
        instructions: in all, padding left out.
        fma: float32 multiply-adds among them.
        mma: of the matrix units.
        loads: from global memory, asynchronous copies among them.
        wide: 16 bytes wide, of these.
    """

    name: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spills: int = 0
    instructions: int = 0
    fma: int = 0
    mma: int = 0
    loads: int = 0
    wide: int = 0

    def row(self) -> dict[str, Any]:
        """The figures without the name."""
        return {name: value for name, value in asdict(self).items() if name != "name"}

    def usage(self, line: str) -> None:
        """Take the figures of a line of `cuobjdump -res-usage`."""
        found = dict(_USAGE.findall(line))
        self.registers, self.stack, self.shared = (int(found.get(key, 0)) for key in ("REG", "STACK", "SHARED"))

    def count(self, instruction: str) -> None:
        """Take one instruction of `cuobjdump -sass`, such as `LDG.E.128`."""
        word, *modifiers = instruction.split(".")
        if word == "NOP":
            return
        self.instructions += 1
        self.fma += word in _FMA
        self.mma += word in _MMA
        self.spills += word in ("LDL", "STL")
        if word in ("LDG", "LDGSTS", "UBLKCP", "UTMALDG"):
            self.loads += 1
            self.wide += "128" in modifiers or word.startswith("U")


def tool(name: str) -> str | None:
    """Where a tool of the CUDA toolkit is: on the PATH, in /usr/local/cuda, or beside triton's compiler."""
    spec = importlib.util.find_spec("triton")
    places = [Path("/usr/local/cuda/bin", name)]
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "backends/nvidia/bin" / name)
    return shutil.which(name) or next((str(place) for place in places if place.is_file()), None)


def read_cubin(path: Path) -> list[Kernel]:
    """The kernels of a binary, in the order of their names.

    Raises:
        FileNotFoundError: there is no `cuobjdump`.
    """
    dump = tool("cuobjdump")
    if dump is None:
        raise FileNotFoundError("cuobjdump is on no path; it comes with the CUDA toolkit and with triton")
    kernels: dict[str, Kernel] = {}
    for name, line in _by_function(dump, "-res-usage", path):
        if "REG:" in line:
            kernels.setdefault(name, Kernel(name)).usage(line)
    for name, line in _by_function(dump, "-sass", path):
        found = _INSTRUCTION.match(line)
        if found and name in kernels:
            kernels[name].count(found.group(1))
    return [kernels[name] for name in sorted(kernels)]


def _by_function(dump: str, what: str, path: Path) -> Iterator[tuple[str, str]]:
    """Each line with the name of the function that it belongs to."""
    name = ""
    out = subprocess.run([dump, what, str(path)], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        found = _FUNCTION.match(line)
        name = found.group(1) if found else name
        yield name, line


def demangled(name: str) -> tuple[str, str]:
    """A C++ kernel's name without namespaces and arguments, and its template's arguments."""
    filt = tool("cu++filt") or shutil.which("c++filt")
    if filt is None or not name.startswith("_Z"):
        return name, ""
    plain = subprocess.run([filt, "-p", name], capture_output=True, text=True, check=True).stdout.strip()
    plain = plain.replace("(anonymous namespace)::", "").replace("<unnamed>::", "").removeprefix("void ")
    plain = plain.replace("fastdarts::cuda::", "").replace("fastdarts::", "")
    kernel, _, arguments = plain.partition("<")
    return kernel, re.sub(r"\((?:int|unsigned int|bool|long|[\w:]+)\)", "", arguments.removesuffix(">"))


def occupancy(registers: int, shared: int, warps: int, capability: int) -> int:
    """Warps that a multiprocessor of 64 keeps at once; registers of a thread, shared bytes and warps of a block."""
    of_a_warp = -(-max(registers, 1) * 32 // 256) * 256
    blocks = min(_REGISTERS // (of_a_warp * warps), _SHARED[capability] // (shared + 1024), _WARPS // warps, _BLOCKS)
    return blocks * warps
