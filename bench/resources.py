"""Registers, shared memory, spills and instructions of every GPU kernel, compiled ahead of time: no GPU is asked.

    python -m bench.resources               what changed since the table was written; then docs/resources.md
    python -m bench.resources --all         everything once more
    python -m bench.resources --list        only say what changed

Triton's kernels, the VARIANTS of kernels/*.py, are compiled for sm_80, sm_90 and sm_100 (a size that is divisible by 16
is `i32:16` there, as in triton.tools.compile); those of csrc/cuda/*.cu by nvcc for setup.py's architectures. A source
whose code is the same, comments aside, keeps its rows; the table is written after each file, so that a run that was
interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import sass

__all__ = [
    "DOCUMENT",
    "ROOT",
    "TABLE",
    "changed",
    "complaints",
    "fingerprint",
    "main",
    "markdown",
    "measured",
    "sources",
]

ROOT = Path(__file__).resolve().parents[1]
TABLE, DOCUMENT = ROOT / "bench/results/resources.json", ROOT / "docs/resources.md"
CAPABILITIES = (80, 90, 100)
# At most, for one file: a kernel that takes longer to compile is a fault of its own.
SECONDS = 900

_INTRODUCTION = """# What each GPU kernel takes

Written by `python -m bench.resources` from compiled binaries, without a GPU; nothing here is a time.
Compilers: triton {triton}, nvcc {nvcc}.

- **registers** of a thread, **shared** memory of a block in bytes (of CUDA C++ the static part), and **spills**
  (instructions on local memory, and its bytes): one figure for each target, or one for all.
- of sm_90: **warps** a block; **resident** warps of a multiprocessor's 64; the share of instructions that are float32
  multiply-adds (**FMA**) and matrix products (**MMA**), counted where they stand, not as often as they run; loads from
  global memory that are **16 bytes** wide, of all. Of Triton's, sizes are divisible by what VARIANTS say.
- A main kernel should not spill; the few that do are listed in `tests/test_resources.py`, which refuses any other. The
  others are marked *small*.
"""

Row = dict[str, Any]


def sources(root: Path = ROOT) -> list[Path]:
    """The files that hold GPU kernels."""
    triton = [path for path in (root / "kernels").glob("*.py") if not path.name.startswith("_")]
    return [*sorted(triton), *sorted(root.glob("csrc/cuda/*.cu"))]


def fingerprint(path: Path) -> str:
    """A hash of a source's code and of all that it includes or imports of ours; comments do not count."""
    code = hashlib.sha256()
    for each in sorted(_with_included(path, set())):
        text = each.read_text(encoding="utf-8")
        code.update((_python(text) if each.suffix == ".py" else _cpp(text)).encode())
    return code.hexdigest()[:16]


def _with_included(path: Path, seen: set[Path]) -> set[Path]:
    seen.add(path)
    for each in _included(path, path.read_text(encoding="utf-8")):
        if each.is_file() and each.resolve() not in seen:
            _with_included(each.resolve(), seen)
    return seen


def _included(path: Path, text: str) -> Iterator[Path]:
    if path.suffix != ".py":
        yield from (path.parent / name for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE))
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastdarts.kernels"):
            below = (node.module or "").removeprefix("fastdarts.kernels").lstrip(".")
            names = [below] if below else [alias.name for alias in node.names]
            # What a variant is decides nothing that is compiled.
            yield from (path.parent / f"{name}.py" for name in names if name not in ("", "_variants"))


def _python(text: str) -> str:
    lines = text.splitlines()
    # Comments are found before any line is cut, and each is the end of its line.
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            said = node.body[0]
            lines[said.lineno - 1 : said.end_lineno] = [""] * ((said.end_lineno or said.lineno) - said.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _cpp(text: str) -> str:
    return " ".join(re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL).split())


def measured(path: Path, root: Path = ROOT) -> list[Row]:
    """The rows of a source, each kernel, variant and target; one row with an `error` where it does not compile."""
    if path.suffix == ".cu":
        return [row for target in architectures(root) for row in _by_nvcc(path, *target)]
    # A process of its own: whether kernels are interpreted is decided when the first one is defined.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.resources", "--worker", str(path)]
    with tempfile.TemporaryDirectory() as cache:
        environment |= {"TRITON_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return [{"kernel": path.stem, "error": f"more than {SECONDS} s"}]
    if done.returncode:
        return [{"kernel": path.stem, "error": _last_line(done.stderr)}]
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")[:300]


def architectures(root: Path = ROOT) -> list[tuple[str, str]]:
    """What setup.py has nvcc compile to machine code, as (code, arch)."""
    tree = ast.parse((root / "setup.py").read_text(encoding="utf-8"))
    found = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CUDA_TARGETS"
    )
    return [(code, arch) for code, arch in next(found).items() if code.startswith("sm_")]


def _by_nvcc(path: Path, code: str, arch: str) -> list[Row]:
    nvcc = sass.tool("nvcc")
    if nvcc is None:
        return [{"kernel": path.stem, "target": code, "error": "there is no nvcc here"}]
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        options = ["-std=c++17", "-O3", "-DFASTDARTS_CUDA", f"-gencode=arch={arch},code={code}"]
        command = [nvcc, "-cubin", str(path), "-o", str(cubin), *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return [{"kernel": path.stem, "target": code, "error": f"more than {SECONDS} s"}]
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            return [{"kernel": path.stem, "target": code, "error": (errors or [_last_line(done.stderr)])[0][:300]}]
        kernels = sass.read_cubin(cubin)
    rows = []
    for kernel in kernels:
        name, variant = sass.demangled(kernel.name)
        # A fold adds up a few kilobytes of partial sums.
        rows.append({"kernel": name, "variant": variant, "target": code, "main": "fold" not in name, **kernel.row()})
    return sorted(rows, key=lambda row: (row["kernel"], row["variant"]))


def compiled_by_triton(path: Path) -> list[Row]:
    """The rows of a file of Triton kernels, in this process."""
    module = importlib.import_module(f"fastdarts.kernels.{path.stem}")
    return [_variant(variant, capability) for variant in module.VARIANTS for capability in CAPABILITIES]


def _variant(variant: Any, capability: int) -> Row:
    import triton
    from triton.backends.compiler import GPUTarget

    kernel = variant.kernel
    row: Row = {"kernel": kernel.__name__, "variant": variant.name, "target": f"sm_{capability}", "main": variant.main}
    row["warps"] = variant.warps
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in variant.constants else variant.signature.get(name) for name in names}
    unknown = [name for name, kind in kinds.items() if kind is None]
    unknown += [name for name in (*variant.signature, *variant.constants) if name not in names]
    if unknown:
        return row | {"error": f"no type for, or no argument called {', '.join(unknown)}"}
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature=_without_hints(kinds),
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={place: [["tt.divisibility", 16]] for place in _divisible(kinds.values())},
    )
    options = {"num_warps": variant.warps, "enable_fp_fusion": True}
    try:
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:  # whatever a compiler may raise: the row says it, and the test fails on it
        return row | {"error": f"{type(error).__name__}: {_last_line(str(error))}"}
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        cubin.write_bytes(binary.asm["cubin"])
        (found,) = sass.read_cubin(cubin)
    row |= found.row() | {"shared": binary.metadata.shared}
    return row | {"occupancy": sass.occupancy(row["registers"], row["shared"], variant.warps, capability)}


def _without_hints(kind: Any) -> Any:
    if isinstance(kind, dict):
        return {name: _without_hints(each) for name, each in kind.items()}
    return tuple(map(_without_hints, kind)) if isinstance(kind, (tuple, list)) else kind.partition(":")[0]


def _divisible(kinds: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """Where a launch finds numbers divisible by 16: all addresses, as torch's allocator gives them, and `i32:16`."""
    for i, kind in enumerate(kinds):
        if isinstance(kind, (tuple, list)):
            yield from _divisible(kind, (*above, i))
        elif kind.startswith("*") or kind.endswith(":16"):
            yield (*above, i)


def changed(table: dict[str, Any], root: Path = ROOT) -> list[str]:
    """The sources whose rows are missing or of other code, and the rows whose source is gone."""
    now = {path.relative_to(root).as_posix(): fingerprint(path) for path in sources(root)}
    found = {name: entry["hash"] for name, entry in table.get("sources", {}).items()}
    return sorted(name for name in now.keys() | found.keys() if now.get(name) != found.get(name))


def markdown(table: dict[str, Any]) -> str:
    """docs/resources.md."""
    lines = _INTRODUCTION.format(triton=table["triton"], nvcc=table["nvcc"]).splitlines()
    for name, entry in table["sources"].items():
        rows = entry["rows"]
        if rows:
            lines += ["", f"## {name}", "", *_section(rows)]
    return "\n".join(lines) + "\n"


def _section(rows: list[Row]) -> Iterator[str]:
    broken = [row for row in rows if "error" in row]
    for row in broken:
        yield f"- {row['kernel']} {row.get('variant', '')} {row.get('target', '')}: **{row['error']}**"
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault((row["kernel"], row["variant"]), []).append(row)
    if not groups:
        return
    targets = " / ".join(dict.fromkeys(row["target"] for row in rows if "target" in row))
    yield from ([""] if broken else [])
    yield f"| kernel, {targets} | registers | shared | spills | warps | resident | FMA | MMA | 16 bytes |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (kernel, variant), group in groups.items():
        at = next((row for row in group if row["target"].startswith("sm_90")), group[-1])
        title = f"`{kernel}` {variant}".strip() + ("" if at["main"] else " *small*")
        spills = [f"{row['spills']} ({row['stack']})" if row["spills"] or row["stack"] else "0" for row in group]
        figures = [_each(row["registers"] for row in group), _each(row["shared"] for row in group), _each(spills)]
        figures += [str(at.get("warps", "")), str(at.get("occupancy", ""))]
        figures += [f"{at[part] / at['instructions']:.0%}" if at[part] else "" for part in ("fma", "mma")]
        figures += [f"{at['wide']} of {at['loads']}" if at["loads"] else ""]
        yield f"| {title} | {' | '.join(figures)} |"


def _each(figures: Any) -> str:
    words = [str(figure) for figure in figures]
    return words[0] if len(set(words)) == 1 else " / ".join(words)


def _versions() -> dict[str, str]:
    nvcc = sass.tool("nvcc")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout if nvcc else ""
    release = re.search(r"release ([\d.]+)", said)
    try:
        triton = importlib.import_module("triton").__version__
    except ImportError:
        triton = "none"
    return {"triton": triton, "nvcc": release.group(1) if release else "none"}


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 where something does not compile or a main kernel spills."""
    parser = argparse.ArgumentParser(prog="python -m bench.resources", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="compile what did not change, too")
    parser.add_argument("--list", action="store_true", help="only say what changed")
    parser.add_argument("--only", default="", help="of what changed, the files with this in their name")
    parser.add_argument("--jobs", type=int, default=1, help="files that are compiled at once (default 1)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        print(json.dumps(compiled_by_triton(given.worker)))
        return 0
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
    todo = changed({} if given.all else table)
    if given.list:
        print("\n".join(todo) or "nothing changed")
        return 0
    kept = {} if given.all else table.get("sources", {})
    work = [path for path in sources() if path.relative_to(ROOT).as_posix() in todo and given.only in path.name]
    with ThreadPoolExecutor(given.jobs) as pool:
        for path, entry in zip(work, pool.map(_entry, work), strict=True):
            kept[path.relative_to(ROOT).as_posix()] = entry
            _write(kept)
    wrong = list(complaints(_write(kept)))
    print("\n".join(wrong) or "everything compiles, no main kernel spills")
    return int(bool(wrong))


def _entry(path: Path) -> dict[str, Any]:
    # Before compiling: what is edited meanwhile counts as changed.
    code, start = fingerprint(path), time.perf_counter()
    rows = measured(path)
    print(f"{path.relative_to(ROOT)}: {len(rows)} rows, {time.perf_counter() - start:.0f} s", flush=True)
    return {"hash": code, "rows": rows}


def _write(kept: dict[str, Any]) -> dict[str, Any]:
    """The table and the page of the sources that exist, as far as they are compiled."""
    names = [path.relative_to(ROOT).as_posix() for path in sources()]
    table = _versions() | {"sources": {name: kept[name] for name in names if name in kept}}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    DOCUMENT.write_text(markdown(table), encoding="utf-8")
    return table


def complaints(table: dict[str, Any]) -> Iterator[str]:
    """What does not compile, and which main kernels spill."""
    for name, entry in table["sources"].items():
        for row in entry["rows"]:
            at = f"{name}: {row['kernel']} {row.get('variant', '')} {row.get('target', '')}"
            if "error" in row:
                yield f"{at}: {row['error']}"
            elif row["main"] and (row["spills"] or row["stack"]):
                yield f"{at}: {row['spills']} instructions on local memory, a stack of {row['stack']} bytes"


if __name__ == "__main__":
    sys.exit(main())
