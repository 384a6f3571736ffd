"""The doctor's facts: true, complete, and plain enough for JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import torch

import fastdarts
from fastdarts import _backend, _doctor
from fastdarts._doctor import as_dict, report


def test_the_report_is_plain_data_with_one_value_a_name() -> None:
    facts = report()
    assert len({(fact.section, fact.name) for fact in facts}) == len(facts)
    data = as_dict(facts)
    assert json.loads(json.dumps(data)) == data
    assert list(data) == ["versions", "host", "backends", "native", "gpu", "packages"]


def test_versions_are_those_in_use() -> None:
    versions = as_dict(report())["versions"]
    assert versions["fastdarts"]["value"] == fastdarts.__version__
    assert versions["torch"]["value"] == torch.__version__


def test_the_native_core_tells_how_it_was_built() -> None:
    data = as_dict(report())
    core = _backend.native()
    assert data["native"]["module"]["value"] == core.__file__
    assert data["native"]["C++ standard"]["value"] >= 201703
    assert data["backends"]["in force"]["value"] == "cpu"
    assert data["backends"]["cpu"]["value"] == "live" and "augment" in data["backends"]["cpu"]["note"]
    assert not data["backends"]["cuda"]["ok"] and data["backends"]["cuda"]["note"]


def test_instruction_sets_include_what_torch_uses() -> None:
    host = as_dict(report())["host"]
    needed = {"AVX512": "AVX-512F", "AVX2": "AVX2"}.get(host["torch instruction set"]["value"])
    assert needed is None or needed in host["instruction sets"]["value"]
    assert host["cores"]["value"] >= 1


def test_one_openmp_runtime_serves_torch_and_the_native_core() -> None:
    """In a process of its own: scikit-learn, which other tests import, brings a runtime that only it uses."""
    command = [sys.executable, "-m", "fastdarts", "doctor", "--json"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(json.loads(printed)["host"]["OpenMP runtimes"]["value"]) <= 1


def test_without_the_native_core_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backend, "_load_native", lambda: (None, "no compiler; reinstall"))
    data = as_dict(report())
    assert data["native"] == {"module": {"value": None, "ok": False, "note": "no compiler; reinstall"}}
    assert data["backends"]["in force"]["value"] == "reference"
    assert "instruction sets" not in data["host"]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "_PACKAGES", {"no-such-distribution": "this test"})
    (fact,) = _doctor._packages()
    assert not fact.ok and fact.value is None
    assert fact.note == "missing, needed for this test: pip install no-such-distribution"


def test_a_failing_driver_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        warnings.warn("the driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    facts = {fact.name: fact for fact in _doctor._gpu()}
    assert facts["devices (torch)"].value == 0
    assert facts["devices (torch)"].note == "the driver is too old"


@pytest.mark.gpu
def test_the_gpu_is_named() -> None:
    gpu = as_dict(report())["gpu"]
    assert gpu["cuda:0"]["value"] == torch.cuda.get_device_name(0)
