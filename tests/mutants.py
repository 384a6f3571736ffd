"""What the tests are worth: faults planted one at a time in a copy of the tree, each of which some test must find.

    python tests/mutants.py                     every mutant
    python tests/mutants.py --only stencil      those with a word in their area or name
    python tests/mutants.py --tests DIR         with the tests of another tree, to compare two: whole files of them

First the tests are run on the sound tree, where all must pass. Then a row a mutant: what was planted, and the first
test that failed, or SURVIVED. A fault in C++ is compiled (with ccache, where there is one, in seconds); nothing is
changed in the tree itself. `tests/planted` holds the faults. Exits with the number of survivors.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from planted import AREAS, Mutant

ROOT = Path(__file__).parent.parent


def copied(to: Path, tests: Path, *, build: bool) -> None:
    """The tree, without what is built where it will be built anew, with the tests of `tests`."""
    for name in ("fastdarts", "csrc", "kernels", "docs", "bench"):
        left_out = shutil.ignore_patterns("__pycache__", *(["*.so"] if build else []))
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


class Judge:
    """Runs tests in a tree, until the first that fails."""

    def __init__(self, tree: Path) -> None:
        environment = {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
        # Kernels are interpreted, on a machine with a GPU too; torch's compiler imports Triton before the tests say so.
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
        command = [sys.executable, str(Path(__file__).parent / "planted" / "server.py")]
        self._server = subprocess.Popen(
            command, cwd=tree, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def first_failure(self, tests: Sequence[str]) -> str:
        """The first test that fails, "" where none does. One after the other: pytest would begin with the slowest."""
        return next(filter(None, map(self._failure, tests)), "")

    def _failure(self, tests: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        # What is imported already, pytest cannot rewrite, and need not: it is not the project's.
        unasked = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        arguments = ["-x", "-q", *unasked, tests]
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        status, written = json.loads(self._server.stdout.readline())
        if status == 0:
            return ""
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", written, re.MULTILINE)
        return found.group(1) if found else f"pytest ended with {status}: {written.strip()[-300:]}"

    def close(self) -> None:
        self._server.communicate()


def tests_of(mutant: Mutant, tests: Path) -> list[str]:
    """Those of the mutant; of another tree the files that hold them, since it may have other tests."""
    if tests == ROOT / "tests":
        return list(mutant.tests)
    files = dict.fromkeys(each.partition("::")[0] for each in mutant.tests)
    return [each for each in files if (tests.parent / each).exists()]


def planted_once(mutant: Mutant, tree: Path) -> str:
    """The sound content of the mutant's file."""
    sound = (tree / mutant.path).read_text()
    if sound.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.name}: {mutant.path} holds {mutant.old!r} {sound.count(mutant.old)} times, expected 1"
        )
    return sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a mutant's area or name")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="folder of the tests to judge")
    options = parser.parse_args()
    tests = options.tests.resolve()
    chosen = [
        (area, each) for area, mutants in AREAS.items() for each in mutants if options.only in f"{area} {each.name}"
    ]
    # Those of Python first: the core is then as it was built.
    chosen.sort(key=lambda each: each[1].compiled)
    planted, found = Counter(area for area, _ in chosen), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        compiled = any(mutant.compiled for _, mutant in chosen)
        copied(tree, tests, build=compiled)
        if compiled:
            build(tree)
        judge = Judge(tree)
        wanted = sorted({test for _, mutant in chosen for test in tests_of(mutant, tests)})
        if failed := judge.first_failure(wanted):
            raise SystemExit(f"{failed} fails on the sound tree")
        for area, mutant in chosen:
            path, sound = tree / mutant.path, planted_once(mutant, tree)
            times = path.stat()
            path.write_text(sound.replace(mutant.old, mutant.new))
            if mutant.compiled:
                build(tree)
            failed = judge.first_failure(tests_of(mutant, tests))
            path.write_text(sound)
            # Of the sound file there is byte code already, which Python knows by its time.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            found[area] += bool(failed)
            print(f"{area:14} {mutant.name:60} {failed or 'SURVIVED'}", flush=True)
        judge.close()
    for area, count in planted.items():
        print(f"{area}: {found[area]} of {count} found")
    print(f"{found.total()} of {len(chosen)} found")
    return len(chosen) - found.total()


if __name__ == "__main__":
    sys.exit(main())
