"""The GPU tests, the most telling first, as long as the time lasts: a row a test.

    python -m bench.gpu.tests --out results --seconds 60 --only test_stencil_cuda

The order is that of tests/gpu_order.py. A test that loses the GPU ends the process; bench.gpu.call begins another one
with those that are left. On a GPU of paper nothing is right, so that nothing but what was compiled is asked.
"""

from __future__ import annotations

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
        """Only what is asked for, and nothing that first builds the host's shim; the order is the suite's own."""
        hosts = [item for item in items if "on_shim" in getattr(item, "fixturenames", ())]
        left_out = [item for item in items if item in hosts or not self.stage.wants(_name(item))]
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)

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
        if report.failed and not self.given.paper:
            lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            self._row["error"] = (lines or str(report.longrepr).splitlines() or ["?"])[0][:300]
        if report.when == "teardown":
            if self.given.paper:
                self._row = {"name": self._row["name"], "not_measured": "on paper"}
            self._row["took_seconds"] = round(time.perf_counter() - self._start, 2)
            self.stage.end(self._row)


def _name(item: pytest.Item) -> str:
    return item.nodeid.removeprefix("tests/")


def main(arguments: list[str] | None = None) -> Stage:
    """Run them."""
    given: Options = options(arguments)
    if given.paper:
        torch.cuda.is_available = lambda: True  # conftest.py would have Triton interpret
    sys.path.append(str(_TESTS))
    import gpu_order

    stage = Stage("tests", given)
    # Its plugin warns where torch or the machine is not what it knows, and warnings are errors.
    plain = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:randomly", "-p", "no:xdist", "-p", "no:cov"]
    files = [str(_TESTS / name) for name in gpu_order.files(given.only)]
    code = pytest.main(["-m", "gpu", "-q", "--no-header", "--tb=short", *plain, *files], plugins=[Rows(stage)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED):
        stage.end({"name": "pytest", "error": f"it ended with {code}"})
    return stage


if __name__ == "__main__":
    run(main)
