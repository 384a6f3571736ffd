"""Runs pytest for each line it reads, every time in a process of its own that has torch imported already.

A line is a JSON list of pytest's arguments; the answer is one of the exit status and what pytest wrote.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import tempfile

import pytest

# Nothing of the project: that is what changes. Half of what a test file takes to begin is torch's compiler.
SHARED = ("torch._dynamo", "hypothesis", "scipy.stats", "safetensors.torch", "rich", "typer")
# Seconds, after which a run counts as one that does not end.
LONGEST = 600


def run(arguments: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryFile("w+") as written:
        child = os.fork()
        if not child:
            os.dup2(written.fileno(), 1)
            os.dup2(written.fileno(), 2)
            signal.alarm(LONGEST)
            status = pytest.main(arguments)
            sys.stdout.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        written.seek(0)
        return os.waitstatus_to_exitcode(status), written.read()


if __name__ == "__main__":
    for name in SHARED:
        importlib.import_module(name)
    gc.freeze()  # else every process collects what they all share
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
    os._exit(0)  # at its end Triton tells what it has leaked
