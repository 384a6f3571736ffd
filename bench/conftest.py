"""What every benchmark shares: the options, the order of the contenders, and the machine's roofline beside them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from bench import machine

# inductor, imported at the first compilation, still uses what torch itself has deprecated.
_COMPILE = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is:DeprecationWarning")
_BEFORE = pytest.StashKey[dict[str, float]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastdarts")
    group.addoption("--compile", action="store_true", help="torch.compile too, where a case has it: takes minutes")
    group.addoption("--repeats", type=int, default=5, help="how often each contender takes its turn")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Contenders take turns: A B C A B C."""
    if "contender" not in metafunc.fixturenames:
        return
    turns = [
        pytest.param(
            *(case, repeat, contender),
            id=f"{case.name}-{repeat}-{contender}",
            marks=[_COMPILE] if contender == "compile" else [],
        )
        for case in metafunc.module.CASES
        for repeat in range(metafunc.config.getoption("repeats"))
        for contender in case.contenders(compiled=metafunc.config.getoption("compile"))
    ]
    metafunc.parametrize(("case", "repeat", "contender"), turns)


@pytest.fixture(scope="session", autouse=True)
def roofline(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("benchmark_disable"):
        request.config.stash[_BEFORE] = machine.describe() | machine.roofline()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Measured again at the end: a machine that was not the same throughout shows."""
    if _BEFORE in config.stash:
        machine_info["fastdarts"] = {"before": config.stash[_BEFORE], "after": machine.describe() | machine.roofline()}
    with contextlib.suppress(KeyError):
        machine_info["cpu"].pop("flags", None)  # two hundred words
