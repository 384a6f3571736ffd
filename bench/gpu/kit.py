"""What a lent GPU must not spend its minutes on, made here and carried there: the extension, and every kernel compiled.

    python -m bench.gpu.kit make 2 A B     # `make device-kit`: into .dev/, by two processes; first a core's hours
    python -m bench.gpu.kit check          # whether it is of this tree
    python -m bench.gpu.kit unpack A       # on the other machine; bench/gpu/device.sh does it

It is made by the Python, torch and Triton of that machine. The kernels are those that a dry run of both calls launches
on a GPU of paper: Triton's cache, packed. Its entries hold absolute paths, so it has the same place on both machines.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.gpu import record

__all__ = ["CACHE", "FOLDER", "PROBE", "KitError", "adopt", "check", "environment", "make", "unpack"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".dev"
CACHE = Path("/tmp/fastdarts-device/triton")
PROBE = FOLDER / "probe.so"
# The machine's: Python decides what an extension and Triton's launchers are built for, Triton's wheel what its cache
# holds, and torch is what the dry run should meet.
VERSIONS = {"python": "3.12", "torch": "2.11.0", "triton": "3.6.0"}
_MANIFEST, _PACKED = FOLDER / "kit.json", FOLDER / "triton.tar.xz"
_MARKER = CACHE.parent / "unpacked"  # which kit's kernels the cache has, and no others
_BUILD = ("setuptools>=68,<82", "wheel", "pybind11>=2.12", "ninja>=1.10")
_CARRIED = {".json", ".cubin", ".so"}  # of a cache's entry; the stages between are for reading only
# What decides each part: of the kernels, which there are and how they are called.
_SOURCES = {
    "extension": ("csrc/**/*.*", "setup.py"),
    "probe": ("bench/gpu/probe.cu",),
    "kernels": ("kernels/*.py", "fastdarts/**/*.py"),
}


class KitError(Exception):
    """The kit is missing, of another tree, or for another machine; one line that says what to do."""


def digest(*patterns: str) -> str:
    """Of the files under the patterns, names and contents, and the versions."""
    found = hashlib.sha256(json.dumps(VERSIONS, sort_keys=True).encode())
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}):
        if path.suffix not in (".so", ".pyc"):
            found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def environment() -> dict[str, str]:
    """Of a process that uses the kit: the cache's place, this tree's packages, and nothing else that moves Triton."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    if _MANIFEST.exists() and not (ROOT / ".git").exists():
        # A tree may come without its history.
        known = json.loads(_MANIFEST.read_text(encoding="utf-8"))["commit"]
        kept.setdefault("FASTDARTS_COMMIT", f"{known}, by the kit")
    return kept | {"TRITON_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT), "FASTDARTS_KIT": "1"}


def check() -> dict[str, Any]:
    """The manifest of a kit that is of this tree.

    Raises:
        KitError: there is none, or it is of other sources.
    """
    if not _MANIFEST.exists():
        raise KitError(f"no kit in {FOLDER.name}/: make device-kit")
    found: dict[str, Any] = json.loads(_MANIFEST.read_text(encoding="utf-8"))
    stale = [name for name, patterns in _SOURCES.items() if found["digests"].get(name) != digest(*patterns)]
    if stale:
        raise KitError(f"the kit's {' and '.join(stale)} are of other sources: make device-kit")
    return found


def unpack(calls: Sequence[str] = ()) -> dict[str, Any]:
    """Put the extension and the cache in place; what there is to say about them.

    Args:
        calls: whose kernels must be there.

    Raises:
        KitError: as `check`; or this Python or Triton is not the kit's, or it is for other calls.
    """
    found = check()
    missing = [name for name in calls if name not in found["calls"]]
    if missing:
        raise KitError(f"the kit is for call {' '.join(found['calls'])}, not {' '.join(missing)}: make device-kit")
    here = {"python": ".".join(platform.python_version_tuple()[:2]), "triton": metadata.version("triton")}
    other = [f"{name} {here[name]}, not {VERSIONS[name]}" for name in here if here[name] != VERSIONS[name]]
    if other:
        raise KitError(f"the kit is for another machine: this has {', '.join(other)}; build here: device.sh build warm")
    _placed(FOLDER / found["extension"])
    if not _MARKER.exists() or _MARKER.read_text() != found["packed"]:
        shutil.rmtree(CACHE, ignore_errors=True)
        _own(CACHE)
        with tarfile.open(_PACKED) as packed:
            packed.extractall(CACHE, filter="data")
        _MARKER.write_text(found["packed"])
    known = _triton_key() == found["triton_key"]
    return {
        "kernels": found["kernels"],
        **_imported(),
        "triton's wheel": "as the kit's" if known else "other bytes than the kit's: its key is taken for this one's",
        "commit": found["commit"],
    }


def _placed(extension: Path) -> None:
    """Put the extension into the package, in one step: another process may have the old one loaded."""
    part = ROOT / "fastdarts" / f"{extension.name}.part"
    shutil.copy2(extension, part)
    part.replace(part.with_suffix(""))


def _imported() -> dict[str, Any]:
    """What was put in place works in this process; torch first, whose OpenMP it shares."""
    importlib.import_module("torch")
    core, kernels = importlib.import_module("fastdarts._C"), importlib.import_module("fastdarts.kernels")
    return {"extension": core.build(), "fastdarts.kernels": kernels.__file__}


def adopt(out: Path | None = None) -> None:
    """Let Triton find the kit's kernels, and the record in `out` hear at the end what was compiled all the same.

    Triton's key is a hash of its own files, of which one version may have two builds. A kernel that is compiled does
    not care: the kit's key is taken.
    """
    if importlib.util.find_spec("triton") is None:
        return
    from triton import knobs
    from triton.runtime import cache

    if "FASTDARTS_KIT" in os.environ and _MANIFEST.exists():
        key = json.loads(_MANIFEST.read_text(encoding="utf-8"))["triton_key"]
        if cache.triton_key() != key:
            cache.triton_key = lambda: key
    missed: list[str] = []

    def listener(*, metadata: dict[str, Any], cache_hit: bool, **_: object) -> None:
        missed.extend([] if cache_hit else [metadata["name"]])

    knobs.compilation.listener = listener
    if out is not None:
        atexit.register(lambda: record.append(out, {"compiled": sorted(missed)}))


def make(jobs: int, calls: Sequence[str]) -> None:
    """Build what is not of this tree, and pack what a dry run needs.

    Args:
        jobs: processes at once.
        calls: of bench.gpu.call, or some of their checks.

    Raises:
        KitError: this is not the machine's Python, torch or Triton; or the dry run lost rows.
    """
    here = {"python": platform.python_version(), **{name: metadata.version(name) for name in ("torch", "triton")}}
    other = [f"{name} {here[name]}" for name in VERSIONS if not here[name].startswith(VERSIONS[name])]
    if other:
        wanted = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
        raise KitError(f"this is {', '.join(other)}; the kit is made by {wanted}: make device-kit sets it up")
    FOLDER.mkdir(exist_ok=True)
    _own(CACHE)
    _MARKER.unlink(missing_ok=True)
    digests = {name: digest(*patterns) for name, patterns in _SOURCES.items()}
    extension = _once("extension", digests["extension"], f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", _extension)
    _placed(extension)
    _once("probe", digests["probe"], PROBE.name, _probe)
    _MANIFEST.unlink(missing_ok=True)  # nothing is fresh that was not finished
    kernels = _kernels(jobs, calls)
    packed = hashlib.sha256(_PACKED.read_bytes()).hexdigest()[:16]
    found = {"digests": digests, "extension": extension.name, "packed": packed, "triton_key": _triton_key(), **kernels}
    _MANIFEST.write_text(json.dumps(found | {"commit": _commit()}, indent=1) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{FOLDER.name}/: {found['kernels']} kernels and launchers, {extension.name}; {size / 2**20:.1f} MB to carry")


def _once(part: str, digest: str, name: str, build: Callable[[Path], None]) -> Path:
    """A file of the kit, built unless it is of these sources."""
    target, stamp = FOLDER / name, FOLDER / f"{part}.digest"
    if not target.exists() or not stamp.exists() or stamp.read_text() != digest:
        build(target)
        stamp.write_text(digest)
    return target


def _extension(target: Path) -> None:
    """Compile the extension for sm_90a."""
    with tempfile.TemporaryDirectory() as folder:
        places = ["--build-lib", folder, "--build-temp", str(Path(folder, "temp"))]
        settings = {"FASTDARTS_BUILD": "strict", "FASTDARTS_CUDA": "sm_90a"}
        command = [sys.executable, "setup.py", "build_ext", *places]
        subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True)
        shutil.copy2(Path(folder, "fastdarts", target.name), target)


def _probe(target: Path) -> None:
    from bench.gpu import ceilings

    ceilings.build(target)


def _kernels(jobs: int, calls: Sequence[str]) -> dict[str, Any]:
    """Run the calls dry, and pack what they took from Triton's cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.gpu.call", "--dry", "--no-kit", "--jobs", str(jobs)]
        command += ["--out", folder, *calls]
        done = subprocess.run(command, cwd=ROOT, env=environment())
        if done.returncode:
            for log in sorted(Path(folder).glob("log*")):
                print(f"== {log.name}", log.read_text(encoding="utf-8")[-4000:], sep="\n")
            raise KitError("the dry run lost rows: see above")
        notes = [line for line in record.lines(Path(folder, record.NAME)) if "keys" in line]
    keys = sorted({key for line in notes for key in line["keys"]})
    with tarfile.open(_PACKED, "w:xz") as packed:
        for path in _entries(keys):
            packed.add(path, path.relative_to(CACHE), filter=_nobodys)
    return {"calls": list(calls), "kernels": len(keys), "compiled": sum(len(line["compiled"]) for line in notes)}


def _entries(keys: Iterable[str]) -> Iterable[Path]:
    for key in keys:
        yield from (path for path in sorted((CACHE / key).glob("*")) if path.suffix in _CARRIED)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _own(folder: Path) -> None:
    """A folder under /tmp that nobody else may have put there: modules are loaded from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, folder.parent):
        if each.stat().st_uid != os.getuid():
            raise KitError(f"{each} belongs to somebody else")
        each.chmod(0o700)


def _triton_key() -> str:
    from triton.runtime import cache

    return str(cache.triton_key())


def _commit() -> str:
    from bench.gpu.stage import commit

    return commit()


def wanted() -> str:
    """What pip must install for the kit's Python: the machine's torch and Triton, and what the project needs."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"], *_BUILD]
    own = [each for each in needed if not each.startswith(("fastdarts", "torch>"))]
    return " ".join([*own, *(f"{name}=={VERSIONS[name]}" for name in ("torch", "triton"))])


def main(arguments: list[str]) -> None:
    """make JOBS CALL..., check, unpack CALL... or wanted."""
    what, *rest = arguments or [""]
    actions: dict[str, Callable[[], Any]] = {
        "make": lambda: make(int(rest[0]), rest[1:]),
        "check": check,
        "unpack": lambda: unpack(rest),
        "wanted": wanted,
    }
    if what not in actions:
        sys.exit(f"python -m bench.gpu.kit {' | '.join(actions)}")
    try:
        found = actions[what]()
    except KitError as error:
        sys.exit(str(error))
    if found is not None:
        print(found if isinstance(found, str) else json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
