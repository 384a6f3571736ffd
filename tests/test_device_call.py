"""A call of a lent GPU: checks in processes of their own, a record that survives them, and what is carried along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conftest
import gpu_order
import pytest

from bench.gpu import call, kit, record, summary
from bench.gpu.call import CALLS, CHECKS, LIMITS, Call, Check

ROOT = Path(__file__).resolve().parents[1]
PREAMBLE = """
import json, os, sys, time
folder, again = sys.argv[1], "--again" in sys.argv
done = [json.loads(line).get("begun") for line in open(folder + "/rows.jsonl")] if again else []
def write(**line):
    with open(folder + "/rows.jsonl", "a") as file:
        file.write(json.dumps({"stage": "own", "in": os.environ["FASTDARTS_CHECK"], **line}) + "\\n")
def row(name, **found):
    write(begun=name)
    write(row={"name": name, **found})
write(toy=False, paper=False, machine=dict.fromkeys(AT, "known"))
"""
AT = ("date", "commit", "device", "torch", "triton", "python", "command")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each check of a call runs, by its name."""
    found: dict[str, str] = {}

    def command(check: Check, out: Path, seconds: float, *, dry: list[str], again: bool) -> list[str]:
        script = f"AT = {AT}" + PREAMBLE + textwrap.dedent(found[check.name])
        return [sys.executable, "-S", "-c", script, str(out), *(["--again"] if again else [])]

    monkeypatch.setattr(call, "command", command)
    return found


def ran(out: Path, *checks: Check, seconds: float = 60.0) -> Call:
    found = Call(list(checks), out, seconds, dry=[], kit=False)
    found.run()
    return found


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {line["row"]["name"]: line["row"] for line in record.lines(out / record.NAME) if "row" in line}


def test_a_stage_that_lost_rows_has_failed(scripts: dict[str, str], tmp_path: Path) -> None:
    scripts |= {
        "good": "row('a', ms=1.0); row('d', skipped='no time')",
        "bad": "row('a', ms=1.0); row('b', error='ValueError: no'); row('c', not_live='no backend'); sys.exit(3)",
        "dead": "sys.exit('no module')",
        "idle": "",
        "memcheck": "row('never')",
    }
    found = ran(
        tmp_path, *(Check(name, 20) for name in ("good", "bad", "dead", "idle")), Check("memcheck", 9, fault=True)
    )
    ended = {name: status.rpartition(",")[0] for name, status in found.ended.items()}
    assert ended["good"] == "ok, 1 rows, 1 not begun for lack of time"
    assert ended["bad"] == "FAILED: 2 of 3 rows lost"
    assert ended["dead"] == "FAILED: exit status 1"
    assert ended["idle"].startswith("FAILED: no rows")
    assert ended["memcheck"] == "not needed: nothing faulted"
    assert "no module" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "bad" not in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "ValueError: no" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_process_that_loses_the_gpu_costs_one_row(scripts: dict[str, str], tmp_path: Path) -> None:
    scripts |= {
        "steps": """
            for name in "abc":
                if name not in done:
                    if name == "b":
                        row(name, error="AcceleratorError: CUDA error: an illegal memory access")
                        sys.exit(4)
                    row(name, ms=1.0)
        """,
        "crash": "write(begun='x'); import signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "memcheck": "row('found', ms=0.0)",
    }
    found = ran(tmp_path, Check("steps", 20), Check("crash", 20), Check("memcheck", 9, fault=True))
    assert {"a", "b", "c"} <= rows(tmp_path).keys() and "ms" in rows(tmp_path)["c"]
    assert found.ended["steps"].startswith("FAILED: 1 of 3 rows lost, in 2 processes")
    assert found.ended["crash"].startswith("FAILED: 1 of 1 rows lost, in 4 processes")
    assert found.ended["memcheck"].startswith("ok, 1 rows")


def test_a_check_has_its_own_limit_and_what_others_leave(scripts: dict[str, str], tmp_path: Path) -> None:
    scripts |= {
        "hangs": "row('a', ms=1.0); write(begun='b'); time.sleep(60)",
        "last": "row('c', ms=2.0)",
    }
    # The first has what is not promised to those after it.
    found = Call([Check("hangs", 1), Check("last", 100)], tmp_path, 106.0 + call._SPARE, dry=[], kit=False)
    found.run()
    assert found.ended["hangs"].startswith("FAILED: 1 of 2 rows lost, ")
    assert found.ended["last"].startswith("ok")
    assert rows(tmp_path).keys() == {"a", "c"}
    found.seconds = 0.0
    found.check(Check("late", 1))
    assert found.ended["late"].startswith("NOT RUN: 0 s were left")


def test_a_killed_call_loses_nothing(tmp_path: Path) -> None:
    """The record's last line may be half of one; what had begun counts as lost."""
    at = dict.fromkeys(AT, "known")
    for line in (
        {"stage": "steps", "machine": at, "toy": False, "paper": False},
        {"stage": "steps", "begun": "ours"},
        {"stage": "steps", "row": {"name": "ours", "ms": 9.5, "net": "DARTS"}},
        {"stage": "epochs", "machine": at, "toy": False, "paper": False},
        {"stage": "epochs", "begun": "four"},
        {"stage": "epochs", "begun": "four", "so_far": {"epoch": 0, "elapsed_s": 2.0}},
    ):
        record.append(tmp_path, line)
    with (tmp_path / record.NAME).open("a", encoding="utf-8") as file:
        file.write('{"stage": "steps", "row": {"name": "half')
    stages = summary.merged([tmp_path / record.NAME])
    assert [row["name"] for row in stages["steps"]["rows"]] == ["ours"]
    (row,) = stages["epochs"]["rows"]
    assert row["elapsed_s"] == 2.0 and "ended before it did" in row["error"]
    summary.main([str(tmp_path / record.NAME)])
    assert "four: its process ended" in (tmp_path / "table.md").read_text(encoding="utf-8")
    # What was merged can be merged again.
    assert summary.merged([tmp_path / "gpu.json"]) == stages
    with pytest.raises(SystemExit, match="no such record"):
        summary.main([str(tmp_path / "none.jsonl")])


def test_the_calls_fit_their_time_and_their_checks_exist() -> None:
    for name, checks in CALLS.items():
        assert sum(check.limit for check in checks if not check.fault) + call._SPARE <= LIMITS[name], name
    for check in (*CHECKS.values(), *(check for checks in CALLS.values() for check in checks)):
        module = check.module or check.name
        assert module in ("build", "doctor") or (ROOT / "bench/gpu" / f"{module}.py").exists(), check
        if check.sanitizer:
            assert "compute-sanitizer" in call.command(check, Path(), 9.0, dry=[], again=False)
    with pytest.raises(SystemExit, match="no call and no check is called nonsense; calls: A B; checks: build kit"):
        call.main(["nonsense"])


# The GPU tests' order and time.


def test_the_order_names_tests_that_exist() -> None:
    for start in gpu_order.ORDER:
        file, _, name = start.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {name.removesuffix('[')}" in text, start
    assert gpu_order.place("tests/test_stencil_cuda.py::test_parity[cuda-1]") == 0
    # The longest beginning that fits counts, and what is not named comes last.
    assert gpu_order.place("test_stencil_cuda.py::test_parity_of_maps_of_several_tiles_and") == 2
    assert gpu_order.place("tests/test_doctor.py::test_the_gpu_is_named") == len(gpu_order.ORDER)
    assert gpu_order.files(r"^test_(optim|augment)\.py::") == ["test_optim.py", "test_augment.py"]
    assert len(gpu_order.files()) == len({start.partition("::")[0] for start in gpu_order.ORDER})


@pytest.mark.parametrize(("seconds", "marked", "skips"), [(5.0, True, True), (5.0, False, False), (None, True, False)])
def test_no_gpu_test_begins_when_their_time_is_over(seconds: float | None, marked: bool, skips: bool) -> None:
    config = SimpleNamespace(getoption=lambda name: seconds, stash={conftest.BEGUN: -1e9})
    item: Any = SimpleNamespace(config=config, get_closest_marker=lambda name: marked)
    if skips:
        with pytest.raises(pytest.skip.Exception, match="the 5 s of the GPU tests were over"):
            conftest.pytest_runtest_setup(item)
    else:
        conftest.pytest_runtest_setup(item)


# The kit.


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tree with a kit of two kernels, and a place for Triton's cache."""
    root = tmp_path / "tree"
    for name in ("fastdarts", "kernels", "csrc", "bench/gpu", ".dev"):
        (root / name).mkdir(parents=True)
    (root / "kernels/sum.py").write_text("one = 1\n")
    (root / "csrc/sum.cpp").write_text("int one = 1;\n")
    (root / "fastdarts/ops.py").write_text("two = 2\n")
    (root / ".dev/_C.so").write_bytes(b"extension")
    cache = tmp_path / "lent/triton"
    with tarfile.open(root / ".dev/triton.tar.xz", "w:xz") as packed:
        for key in ("first", "second"):
            (tmp_path / key).mkdir()
            for name in ("forward.json", "forward.cubin", "forward.ttir"):
                (tmp_path / key / name).write_text(key)
        monkeypatch.setattr(kit, "CACHE", tmp_path)
        for path in kit._entries(["first", "second"]):
            packed.add(path, path.relative_to(tmp_path))
    values = {"ROOT": root, "FOLDER": root / ".dev", "CACHE": cache, "_MARKER": cache.parent / "unpacked"}
    values |= {"_MANIFEST": root / ".dev/kit.json", "_PACKED": root / ".dev/triton.tar.xz"}
    values["VERSIONS"] = {"python": "{}.{}".format(*sys.version_info), "torch": "any", "triton": "9.9"}
    for name, value in values.items():
        monkeypatch.setattr(kit, name, value)
    monkeypatch.setattr(kit.metadata, "version", lambda name: "9.9")
    monkeypatch.setattr(kit, "_triton_key", lambda: "key")
    monkeypatch.setattr(kit, "_imported", lambda: {"extension": "imported"})
    digests = {name: kit.digest(*patterns) for name, patterns in kit._SOURCES.items()}
    found = {"digests": digests, "extension": "_C.so", "packed": "this one", "triton_key": "key"}
    (root / ".dev/kit.json").write_text(json.dumps(found | {"kernels": 2, "commit": "abc", "calls": ["A"]}))
    return root


def test_the_kit_puts_the_extension_and_the_kernels_in_place(tree: Path) -> None:
    kit.CACHE.mkdir(parents=True)
    (kit.CACHE / "of another kit").mkdir()
    found = kit.unpack(["A"])
    assert found["extension"] == "imported" and found["triton's wheel"] == "as the kit's"
    assert (tree / "fastdarts/_C.so").read_bytes() == b"extension"
    names = {str(path.relative_to(kit.CACHE)) for path in kit.CACHE.rglob("*.*")}
    assert names == {f"{key}/forward.{kind}" for key in ("first", "second") for kind in ("json", "cubin")}
    assert not (kit.CACHE / "of another kit").exists() and kit.CACHE.stat().st_mode & 0o077 == 0
    # On a machine that is still warm they are there.
    (kit.CACHE / "first/forward.cubin").unlink()
    kit.unpack()
    assert not (kit.CACHE / "first/forward.cubin").exists()


def test_a_kit_of_other_sources_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kit.check()["kernels"] == 2
    with pytest.raises(kit.KitError, match="the kit is for call A, not B: make device-kit"):
        kit.unpack(["A", "B"])
    (tree / "fastdarts/_C.so").write_bytes(b"no source")
    (tree / "kernels/sum.py").write_text("one = 2\n")
    with pytest.raises(kit.KitError, match="the kit's kernels are of other sources: make device-kit"):
        kit.unpack()
    (tree / "csrc/more.cuh").write_text("")
    with pytest.raises(kit.KitError, match="extension and kernels"):
        kit.check()
    (tree / "csrc/more.cuh").unlink()
    (tree / "kernels/sum.py").write_text("one = 1\n")
    monkeypatch.setattr(kit.metadata, "version", lambda name: "9.10")
    with pytest.raises(kit.KitError, match=r"for another machine: this has triton 9\.10, not 9\.9"):
        kit.unpack()
    (tree / ".dev/kit.json").unlink()
    with pytest.raises(SystemExit, match=r"no kit in \.dev/: make device-kit"):
        kit.main(["check"])
    assert not kit.CACHE.exists()


def test_nothing_is_begun_with_a_kit_that_does_not_fit(scripts: dict[str, str], tmp_path: Path) -> None:
    scripts |= {"kit": "sys.exit('of other sources')", "steps": "row('a', ms=1.0)"}
    found = ran(tmp_path, Check("kit", 9, "kit"), Check("steps", 9))
    assert list(found.ended) == ["kit"] and not rows(tmp_path)


def test_what_uses_the_kit_hears_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/elsewhere/ptxas")
    found = kit.environment()
    assert {name for name in found if name.startswith("TRITON_")} == {"TRITON_CACHE_DIR"}
    assert found["PYTHONPATH"] == str(kit.ROOT)


# The dry run.


def test_both_calls_run_dry_on_a_gpu_of_paper(tmp_path: Path) -> None:
    """The first rows of every check, in one process and at toy sizes; kernels go no further than Triton's IR."""
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    environment |= {"FASTDARTS_PAPER": "kinds", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / "bench/gpu/device.sh"), "--dry", "--toy", "--rows", "2", "--no-kit"]
    command += ["--out", str(tmp_path), "A", "B"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    ended = {line["check"]: line["status"] for line in record.lines(tmp_path / record.NAME) if "check" in line}
    assert len(ended) == sum(check.name != "kit" for checks in CALLS.values() for check in checks)
    assert all(status.startswith("ok") for status in ended.values()), ended
    # Every row is one without a figure, and no figure stands in the table.
    assert all("not_measured" in row for row in rows(tmp_path).values())
    assert "ON PAPER" in done.stdout and "| DARTS step, fp32: eager / fastdarts | not measured |" in done.stdout
    assert "would be compiled on the device, of " in done.stdout
