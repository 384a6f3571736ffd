"""The GPU tests, the most telling first, as long as the time lasts: a row a test.

    python -m bench.gpu.tests --out results --seconds 60 --only test_stencil_cuda

The order is that of tests/gpu_order.py. A test that loses the GPU ends the process; bench.gpu.call begins another with
those that are left. On a GPU of paper nothing is compared; a test that cannot run there is lost, since nobody would
know the kernels that it needs.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.record import Row
from bench.gpu.stage import Options, Stage, options, run

__all__ = ["main"]

_TESTS = Path(__file__).parents[2] / "tests"
# Fixtures whose parameter is where a test runs.
_PLACES = ("device", "triton_device", "cuda_device", "where")


class Rows:
    """A plugin of pytest: every test is a row, and none begins when the time is over.

    Args:
        stage: of the rows.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.given = stage, stage.options
        self._row: Row = {}
        self._start = 0.0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Only what is asked for, and nothing that runs on the host; the order is the suite's own."""
        chosen = [item for item in items if not _of_the_host(item) and self.stage.wants(_name(item))]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen[: self.given.rows]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """A row begins, or no more do."""
        if self.stage.left <= 0:
            item.session.shouldstop = "the time is over"
            position = item.session.items.index(item)
            rest = len(item.session.items) - position
            self.stage.end({"name": f"{_name(item)} and after it", "skipped": f"{rest} tests: the time was over"})
            return True
        self._row, self._start = {"name": _name(item)}, time.perf_counter()
        self.stage.begin(_name(item))
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: pytest.FixtureRequest) -> object:
        """On paper the GPU's tensors lie on the CPU."""
        if not self.given.paper or fixturedef.argname not in _PLACES or getattr(request, "param", "") != "cuda":
            return None
        place = torch.device("cpu")
        fixturedef.cached_result = (place, fixturedef.cache_key(request), None)
        return place

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What became of the test; its row ends with its last part."""
        if report.outcome != "passed" or report.when == "call":
            self._row.setdefault("outcome", report.outcome)
        if report.failed:
            lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            self._row["error"] = (lines or str(report.longrepr).splitlines() or ["?"])[0][:300]
        if report.when == "teardown":
            if self.given.paper and "error" not in self._row:
                self._row = {"name": self._row["name"], "not_measured": "on paper"}
            self._row["took_seconds"] = round(time.perf_counter() - self._start, 2)
            self.stage.end(self._row)


def _name(item: pytest.Item) -> str:
    return item.nodeid.removeprefix("tests/")


def _of_the_host(item: pytest.Item) -> bool:
    """Whether a test first builds the shim of the CUDA kernels, or is skipped beside a GPU."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return "on_shim" in getattr(item, "fixturenames", ()) or "cpu" in [parameters.get(name) for name in _PLACES]


def _nothing_is_wrong() -> None:
    """On paper numbers are whatever memory held: a test shall launch what it launches, up to its end."""
    for name in ("tolerance", "tests.tolerance"):  # tests have it by either name
        importlib.import_module(name).assert_within = lambda *_, **__: None  # type: ignore[attr-defined]
    torch.equal = lambda *_: True  # type: ignore[assignment]
    torch.cuda.is_available = lambda: True  # conftest.py would have Triton interpret


def main(arguments: list[str] | None = None) -> Stage:
    """Run them."""
    given: Options = options(arguments)
    sys.path.append(str(_TESTS))
    import gpu_order

    if given.paper:
        _nothing_is_wrong()

    stage = Stage("tests", given)
    # Its plugin warns where torch or the machine is not what it knows, and warnings are errors.
    # torch asks its own driver whether there is a GPU, and on paper that is another's.
    quiet = ["-W", "ignore:CUDA initialization:UserWarning"] if given.paper else []
    plain = [
        *quiet,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "-p",
        "no:randomly",
        "-p",
        "no:xdist",
        "-p",
        "no:cov",
    ]
    files = [str(_TESTS / name) for name in gpu_order.files(given.only)]
    code = pytest.main(["-m", "gpu", "-q", "--no-header", "--tb=short", *plain, *files], plugins=[Rows(stage)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        stage.end({"name": "pytest", "error": f"it ended with {code}"})
    return stage


if __name__ == "__main__":
    run(main)
