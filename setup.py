"""Compiles `fastdarts._C`; everything else is in pyproject.toml.

Nothing here imports torch, runs pip or asks a GPU anything. Three environment variables are read:

FASTDARTS_BUILD  auto    C++, and CUDA as FASTDARTS_CUDA says; what fails is left out with a warning (the default)
                 cpu     C++ only
                 strict  as auto, but a failure or a compiler's warning ends the build
                 sanitize  C++ only, with AddressSanitizer and UBSan, for tests/sanitize.sh; a failure ends the build
                 none    pure Python
FASTDARTS_CUDA   what nvcc compiles for, of sm_80, sm_90a and compute_90 (PTX), as "sm_80 sm_90a"; a failure then ends
                 the build. Unset: for all three where nvcc and NVIDIA's driver are found, else for none. An image that
                 is built without a GPU sets it.
CUDA_HOME        where nvcc is, if neither on the PATH nor in /usr/local/cuda

ninja compiles what changed, in `build/`; ccache, where it is on the PATH, remembers what was compiled before.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, OptionError, PlatformError

ROOT = Path(__file__).parent
BUILD = os.environ.get("FASTDARTS_BUILD", "auto")
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# csrc/cpu/simd is compiled once for each (csrc/isa.h); there, a fused multiply-add is what the kernels are made of.
SIMD_FLAGS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
}
SIMD_SETS = list(SIMD_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["base"]
CUDA_FLAGS = ["-std=c++17", "-O3", "-DFASTDARTS_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=0"]
CUDA_TARGETS = {"sm_80": "compute_80", "sm_90a": "compute_90a", "compute_90": "compute_90"}  # the last one is PTX
ASKED = os.environ.get("FASTDARTS_CUDA", "").split()

if BUILD not in ("auto", "cpu", "strict", "sanitize", "none"):
    raise OptionError(f"FASTDARTS_BUILD is {BUILD!r}; expected auto, cpu, strict, sanitize or none")
if not set(ASKED) <= set(CUDA_TARGETS):
    raise OptionError(f"FASTDARTS_CUDA is {' '.join(ASKED)!r}; expected some of {' '.join(CUDA_TARGETS)}")


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    places = [Path(home, "bin")] if home else []
    on_path = shutil.which("nvcc")
    candidates = [place / "nvcc" for place in places] + ([Path(on_path)] if on_path else [])
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(nvcc) for nvcc in candidates if os.access(nvcc, os.X_OK)), None)


def cuda_targets() -> list[str]:
    """What nvcc is to compile for: minutes of compiling that only a machine with a driver can use, unless asked for."""
    if BUILD not in ("auto", "strict"):
        return []
    driver = Path("/proc/driver/nvidia/version").exists() or ctypes.util.find_library("cuda") is not None
    return ASKED or (list(CUDA_TARGETS) if driver and find_nvcc() else [])


def cuda_library_dirs(nvcc: str) -> list[str]:
    """Where nvcc itself would look for the CUDA runtime; it may be a wrapper far from the toolkit."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    lines = [line for line in dry.stderr.splitlines() if line.startswith("#$ LIBRARIES=")]
    words = shlex.split(lines[0].partition("=")[2]) if lines else []
    return [word[2:] for word in words if word.startswith("-L")]


def build_file(rules: dict[str, list[str]], edges: list[tuple[str, str, str, list[str]]]) -> str:
    """The text of a build.ninja.

    Args:
        rules: name -> the words of its command.
        edges: rule, source, object, and more words that the command takes for it.
    """
    lines = ["ninja_required_version = 1.8"]
    for name, words in rules.items():
        command = f"{shlex.join(words)} $more -MD -MF $out.d -c $in -o $out"
        lines += [f"rule {name}", f"  command = {command}", "  depfile = $out.d", "  deps = gcc"]
        lines.append(f"  description = {name} $in $isa")
    for rule, source, target, more in edges:
        escaped = [each.replace("$", "$$").replace(":", "$:").replace(" ", "$ ") for each in (target, source)]
        lines += [f"build {escaped[0]}: {rule} {escaped[1]}", f"  more = {shlex.join(more)}"]
    return "\n".join(lines) + "\n"


class BuildNative(build_ext):
    """Compiles with ninja, hands .cu files to nvcc, and degrades: CUDA, then C++, then pure Python."""

    def build_extension(self, ext: Extension) -> None:
        targets = cuda_targets()
        for attempt in [targets, []] if targets else [[]]:
            try:
                self._build(ext, attempt)
                return
            except (CompileError, LinkError, PlatformError, OSError, subprocess.SubprocessError) as error:
                if BUILD in ("strict", "sanitize") or (attempt and ASKED):
                    raise
                without = "CUDA" if attempt else "its native core: pure Python will run, slower"
                self.warn(f"fastdarts is built without {without} ({error})")

    def _build(self, ext: Extension, targets: list[str]) -> None:
        nvcc = find_nvcc() if targets else None
        if targets and nvcc is None:
            raise PlatformError(f"FASTDARTS_CUDA asks for {' '.join(targets)} and nvcc is not found; set CUDA_HOME")
        try:
            import ninja
            import pybind11
        except ImportError as error:
            raise PlatformError(f"{error.name} is missing from the build environment") from error
        openmp = ["-fopenmp"] if self._compiles("-fopenmp") else []
        sanitizers = SANITIZERS if BUILD == "sanitize" else []
        strict = ["-Werror"] if BUILD == "strict" else []
        debug = [*sanitizers, "-O1", "-g1", "-fno-omit-frame-pointer"] if sanitizers else []
        defines = {"VERSION": self.distribution.get_version(), "COMPILER": self._compiler_version()}
        defines |= {"CUDA": " ".join(targets)} if targets else {}
        cache = [which] if (which := shutil.which("ccache")) else []
        compiler = getattr(self.compiler, "compiler_so_cxx", None) or self.compiler.compiler_so
        compiler = [word for word in compiler if word not in ("-g", "-O2", "-O3")]
        includes = [pybind11.get_include(), sysconfig.get_path("include")]
        rules = {
            "cxx": [
                *(cache if compiler[0] != "ccache" else []),
                *compiler,
                *CXX_FLAGS,
                *openmp,
                *strict,
                *debug,
                *(f'-DFASTDARTS_{name}="{value}"' for name, value in defines.items()),
                *(f"-I{folder}" for folder in includes),
            ]
        }
        if nvcc:
            codes = [f"-gencode=arch={CUDA_TARGETS[code]},code={code}" for code in targets]
            warnings = ["-Werror=all-warnings"] if BUILD == "strict" else []
            rules["nvcc"] = [nvcc, *CUDA_FLAGS, *warnings, *codes]
        edges = []
        for source in ext.sources:
            if not source.endswith(".cu"):
                for simd in SIMD_SETS if "/simd/" in source else [None]:
                    more = [f"-DFASTDARTS_ISA={simd}", "-ffp-contract=fast", *SIMD_FLAGS[simd]] if simd else []
                    edges.append(("cxx", source, f"{simd or 'plain'}/{source}.o", more))
            elif nvcc:
                edges.append(("nvcc", source, f"cuda/{source}.o", []))
        # Not in build_temp, which is a new folder each time for an editable installation.
        folder = Path("build", f"{BUILD}-{sysconfig.get_platform()}-{sys.implementation.cache_tag}")
        edges = [(rule, source, str(folder / target), more) for rule, source, target, more in edges]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "build.ninja"
        file.write_text(f"builddir = {folder}\n" + build_file(rules, edges), encoding="utf-8")
        self.spawn([str(Path(ninja.BIN_DIR, "ninja")), *([] if self.verbose > 1 else ["--quiet"]), "-f", str(file)])
        self.compiler.link_shared_object(
            [target for _, _, target, _ in edges],
            self.get_ext_fullpath(ext.name),
            libraries=["cudart_static", "dl", "rt", "pthread"] if nvcc else [],
            library_dirs=cuda_library_dirs(nvcc) if nvcc else [],
            # torch brings its own CUDA runtime: ours must stay invisible outside this module.
            extra_postargs=[*openmp, *sanitizers, *(["-Wl,--exclude-libs,ALL"] if nvcc else [])],
            export_symbols=self.get_export_symbols(ext),
            build_temp=self.build_temp,
            target_lang="c++",
        )

    def _compiler_version(self) -> str:
        compiler = next(word for word in self.compiler.compiler_so if word != "ccache")
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[0]

    def _compiles(self, flag: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("int main() { return 0; }\n", encoding="utf-8")
            try:
                objects = self.compiler.compile([str(source)], folder, extra_postargs=[flag])
                self.compiler.link_executable(objects, "probe", folder, extra_postargs=[flag])
            except (CompileError, LinkError):
                return False
        return True


def native_extension() -> Extension:
    sources = [*ROOT.glob("csrc/**/*.cpp"), *ROOT.glob("csrc/**/*.cu")]
    headers = [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")]
    return Extension(
        "fastdarts._C",
        sorted(str(path.relative_to(ROOT)) for path in sources),
        depends=sorted(str(path.relative_to(ROOT)) for path in headers),
        language="c++",
        optional=BUILD not in ("strict", "sanitize") and not ASKED,
    )


setup(
    packages=find_packages(include=["fastdarts", "fastdarts.*"]),  # fastdarts/kernels is a link to kernels
    ext_modules=[] if BUILD == "none" else [native_extension()],
    cmdclass={"build_ext": BuildNative},
)
