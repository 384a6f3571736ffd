"""What the tests are worth: faults planted one at a time in a copy of the tree, each of which some test must find.

    python tests/mutants.py                     every mutant
    python tests/mutants.py --only stencil      those whose name contains a word
    python tests/mutants.py --tests DIR         with the tests of another tree, to compare two

Prints a row a mutant: what was planted, and the first test that failed, or SURVIVED. A fault in C++ is compiled (with
ccache, where there is one, in seconds); nothing is changed in the tree itself. Exits with the number of survivors.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIMD = "csrc/cpu/simd/"
STENCIL, MIXED, PREPROCESS = (f"tests/test_{name}.py" for name in ("stencil", "mixed_sum", "preprocess"))


@dataclass(frozen=True)
class Mutant:
    """A fault: `old` in a file becomes `new`; `tests` are the files that should see it."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(op: str, tests: tuple[str, ...], *faults: tuple[str, str, str, str]) -> list[Mutant]:
    return [Mutant(f"{op}: {name}", SIMD + path, old, new, tests) for name, path, old, new in faults]


MUTANTS = [
    *_of(
        "stencil",
        (STENCIL,),
        ("a wrong tap", "stencil_correlate.h", "+= value * w[k];", "+= value * w[K > 3 && k == 1 ? 2 : k];"),
        (
            "a missing term",
            "stencil_correlate.h",
            "for (int k = 0; k < K; ++k) {\n                    const int",
            "for (int k = 0; k < (K > 3 ? K - 1 : K); ++k) {\n                    const int",
        ),
        (
            "float32 in a float64 path",
            "stencil_pointwise.h",
            "+= value[b * kLanes<A>] * row[v];",
            "+= static_cast<A>(static_cast<float>(value[b * kLanes<A>])) * row[v];",
        ),
        ("a shifted statistic", "stencil_forward.cpp", "var[c] /= all;", "var[c] /= all - 1;"),
        (
            "a statistic of float32 squares",
            "stencil_forward.cpp",
            "q = static_cast<double>(totals[k]) - s * s / n;",
            "q = static_cast<double>(static_cast<float>(totals[k])) - s * s / n;",
        ),
        ("squares about zero", "stencil_forward.cpp", "middle - middle == Vec<A>{} ? middle : Vec<A>{}", "Vec<A>{}"),
        (
            "moments of what is not stored",
            "stencil_forward.cpp",
            "store<A>(block + k, as_stored<T, A>(load<A>(block + k)));",
            ";",
        ),
        (
            "a gradient without its remainder",
            "stencil_backward.cpp",
            "total[k] += static_cast<double>(first[k]);",
            "total[k] += slot + 1 < slots || slots == 1 ? static_cast<double>(first[k]) : 0;",
        ),
        (
            "a gradient whose constant is rounded",
            "stencil_backward.cpp",
            "static_cast<A>(p.gamma[from] + static_cast<double>(beta[k]) * static_cast<double>(near[k]))",
            "A(0)",
        ),
    ),
    *_of(
        "mixed_sum",
        (MIXED, "tests/test_mixed_sum_kernels.py"),
        (
            "a missing term",
            "mixed_sum_tile.h",
            "for (int k = 0; k < kTerms; ++k) {\n            const Vec<A> centred",
            "for (int k = kTerms > 4; k < kTerms; ++k) {\n            const Vec<A> centred",
        ),
        (
            "a mean without what rounding left",
            "mixed_sum_forward.cpp",
            "constant[c] += factor[c] * (shifts[c] - mean[c]);",
            ";",
        ),
        (
            "float32 in a float64 path",
            "mixed_sum_tile.h",
            "static_cast<double>(block[k * period + phase]);",
            "static_cast<double>(static_cast<float>(block[k * period + phase]));",
        ),
        ("a shifted statistic", "mixed_sum_moments.cpp", "/ count;\n            }", "/ (count - 1);\n            }"),
        ("a gradient without what rounding left", "mixed_sum_backward.cpp", "(mean && valued[i] ? ", "(false ? "),
        (
            "the last elements of a sum",
            "mixed_sum_tile.h",
            "if (whole < end) step(whole, (whole - begin)",
            "if (false) step(whole, (whole - begin)",
        ),
    ),
    *_of(
        "preprocess",
        (PREPROCESS,),
        (
            "float32 in a float64 path",
            "preprocess_normalise.cpp",
            "store<A>(y, (load<A>(y) - mean) * rstd);",
            "store<A>(y, (load<A>(y) - mean) * (rstd + rstd * static_cast<A>(1e-9)));",
        ),
        (
            "a shifted statistic",
            "preprocess_forward.cpp",
            "spread / static_cast<double>(chunks.pixels);",
            "spread / static_cast<double>(chunks.pixels - 1);",
        ),
        ("squares about zero", "preprocess_forward.cpp", "mean - mean == Vec<A>{} ? mean : Vec<A>{}", "Vec<A>{}"),
        ("a missing term", "preprocess_backward.cpp", "load_some<A>(g, n)) + gamma;", "load_some<A>(g, n));"),
        ("a gradient at the kink", "simd.h", "return v <= Vec<A>{} ?", "return v < Vec<A>{} ?"),
        ("tasks of unequal weight", "preprocess_forward.cpp", "count(t) * apart * apart", "apart * apart"),
    ),
]


def copied(to: Path, tests: Path) -> None:
    """The tree without what is built, with the tests of `tests`."""
    for name in ("fastdarts", "csrc", "kernels"):
        left_out = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, to / name, ignore=left_out, symlinks=True)  # fastdarts/kernels is one
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, to / name)
    shutil.copytree(tests, to / "tests", ignore=shutil.ignore_patterns("__pycache__"))


def build(tree: Path) -> None:
    ccache = ["ccache"] if shutil.which("ccache") else []
    compilers = {"CC": " ".join([*ccache, "gcc"]), "CXX": " ".join([*ccache, "g++"])}
    environment = {**os.environ, **compilers, "FASTDARTS_BUILD": "cpu", "CCACHE_BASEDIR": str(tree)}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"]
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)


def first_failure(tree: Path, tests: tuple[str, ...]) -> str:
    """The first test that fails, "" where none does."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if found else f"pytest ended with {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a mutant's name")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="folder of the tests to judge")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        copied(tree, options.tests)
        build(tree)
        for mutant in chosen:
            path = tree / mutant.path
            sound = path.read_text()
            if sound.count(mutant.old) != 1:
                raise SystemExit(f"{mutant.name}: {mutant.path} holds {mutant.old!r} {sound.count(mutant.old)} times")
            path.write_text(sound.replace(mutant.old, mutant.new))
            build(tree)
            found = first_failure(tree, mutant.tests)
            path.write_text(sound)
            survivors += not found
            print(f"{mutant.name:45} {found or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} found")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
