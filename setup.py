"""Compiles `fastdarts._C`; everything else is in pyproject.toml.

Nothing here imports torch, runs pip or asks for a GPU. Three environment variables are read:

FASTDARTS_BUILD  auto    C++, and CUDA where nvcc is found; what fails is left out with a warning (the default)
                 cpu     C++ only
                 strict  as auto, but a failure or a compiler's warning ends the build
                 sanitize  C++ only, with AddressSanitizer and UBSan, for tests/sanitize.sh; a failure ends the build
                 none    pure Python
CUDA_HOME        where nvcc is, if neither on the PATH nor in /usr/local/cuda
FASTDARTS_CUDA   the targets of nvcc, of those in CUDA_TARGETS: `sm_90a` alone is a third of the time (all unless set)
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
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
_TARGETS = {"sm_80": "compute_80", "sm_90a": "compute_90a", "compute_90": "compute_90"}  # the last one is PTX
CUDA_TARGETS = {code: _TARGETS.get(code) for code in os.environ.get("FASTDARTS_CUDA", " ".join(_TARGETS)).split()}

if BUILD not in ("auto", "cpu", "strict", "sanitize", "none"):
    raise OptionError(f"FASTDARTS_BUILD is {BUILD!r}; expected auto, cpu, strict, sanitize or none")
if not CUDA_TARGETS or None in CUDA_TARGETS.values():
    raise OptionError(f"FASTDARTS_CUDA is {' '.join(CUDA_TARGETS)!r}; expected some of {' '.join(_TARGETS)}")


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    places = [Path(home, "bin")] if home else []
    on_path = shutil.which("nvcc")
    candidates = [place / "nvcc" for place in places] + ([Path(on_path)] if on_path else [])
    candidates.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(nvcc) for nvcc in candidates if os.access(nvcc, os.X_OK)), None)


def cuda_library_dirs(nvcc: str) -> list[str]:
    """Where nvcc itself would look for the CUDA runtime; it may be a wrapper far from the toolkit."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    lines = [line for line in dry.stderr.splitlines() if line.startswith("#$ LIBRARIES=")]
    words = shlex.split(lines[0].partition("=")[2]) if lines else []
    return [word[2:] for word in words if word.startswith("-L")]


class BuildNative(build_ext):
    """Compiles sources side by side, hands .cu files to nvcc, and degrades: CUDA, then C++, then pure Python."""

    def build_extension(self, ext: Extension) -> None:
        attempts = [find_nvcc(), None] if BUILD in ("auto", "strict") else [None]
        for nvcc in dict.fromkeys(attempts):
            try:
                self._build(ext, nvcc)
                return
            except (CompileError, LinkError, PlatformError, OSError, subprocess.SubprocessError) as error:
                if BUILD in ("strict", "sanitize"):
                    raise
                without = "CUDA" if nvcc else "its native core: pure Python will run, slower"
                self.warn(f"fastdarts is built without {without} ({error})")

    def _build(self, ext: Extension, nvcc: str | None) -> None:
        try:
            import pybind11
        except ImportError as error:
            raise PlatformError("pybind11 is missing from the build environment") from error
        openmp = ["-fopenmp"] if self._compiles("-fopenmp") else []
        sanitizers = SANITIZERS if BUILD == "sanitize" else []
        flags = [*CXX_FLAGS, *openmp, *(["-Werror"] if BUILD == "strict" else [])]
        flags += [*sanitizers, "-O1", "-g1", "-fno-omit-frame-pointer"] if sanitizers else []
        defines = [("FASTDARTS_VERSION", f'"{self.distribution.get_version()}"')]
        defines.append(("FASTDARTS_COMPILER", f'"{self._compiler_version()}"'))
        if nvcc:
            defines.append(("FASTDARTS_CUDA", f'"{" ".join(CUDA_TARGETS)}"'))

        def compile_one(source: str, simd: str | None) -> str:
            if source.endswith(".cu"):
                return self._compile_cuda(nvcc, source)
            folder = str(Path(self.build_temp, simd or ""))
            macros = [*defines, *([("FASTDARTS_ISA", simd)] if simd else [])]
            options = [*flags, *(["-ffp-contract=fast", *SIMD_FLAGS[simd]] if simd else [])]
            include = [pybind11.get_include()]
            compiled = self.compiler.compile(
                [source], folder, macros, include, extra_postargs=options, depends=ext.depends
            )
            return compiled[0]

        sources = [source for source in ext.sources if nvcc or not source.endswith(".cu")]
        work = [(source, simd) for source in sources for simd in (SIMD_SETS if "/simd/" in source else [None])]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda each: compile_one(*each), work))
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            libraries=["cudart_static", "dl", "rt", "pthread"] if nvcc else [],
            library_dirs=cuda_library_dirs(nvcc) if nvcc else [],
            # torch brings its own CUDA runtime: ours must stay invisible outside this module.
            extra_postargs=[*openmp, *sanitizers, *(["-Wl,--exclude-libs,ALL"] if nvcc else [])],
            export_symbols=self.get_export_symbols(ext),
            build_temp=self.build_temp,
            target_lang="c++",
        )

    def _compile_cuda(self, nvcc: str, source: str) -> str:
        target = Path(self.build_temp, source).with_suffix(".cu.o")
        target.parent.mkdir(parents=True, exist_ok=True)
        architectures = [f"-gencode=arch={arch},code={code}" for code, arch in CUDA_TARGETS.items()]
        options = ["-std=c++17", "-O3", "-DFASTDARTS_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=0"]
        strict = ["-Werror=all-warnings"] if BUILD == "strict" else []
        self.spawn([nvcc, "-c", source, "-o", str(target), *options, *strict, *architectures])
        return str(target)

    def _compiler_version(self) -> str:
        command = [self.compiler.compiler_so[0], "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

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
        optional=BUILD not in ("strict", "sanitize"),
    )


setup(
    packages=find_packages(include=["fastdarts", "fastdarts.*"]),  # fastdarts/kernels is a link to kernels
    ext_modules=[] if BUILD == "none" else [native_extension()],
    cmdclass={"build_ext": BuildNative},
)
