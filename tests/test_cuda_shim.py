"""The host shim itself: kernels that a GPU would run wrongly are noticed, and the same kernel without a fault runs."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from cuda_shim import on_shim

__all__ = ["on_shim"]

NOTICED = {
    "half_a_barrier": "thread 32 waits for ever at the block's barrier",
    "two_barriers": "threads meet at different barriers",
    "half_a_warp": "waits for ever",
    "unfinished": "ended before its asynchronous copies",
}


def run(module: ModuleType, fault: str, threads: int = 64) -> torch.Tensor:
    out = torch.arange(threads, dtype=torch.float32)
    module.run_faulty(fault, out.data_ptr(), threads)
    return out


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_a_sound_kernel_runs(on_shim: ModuleType, order: str) -> None:
    on_shim.choose_order(order)
    on_shim.launches()
    thread = torch.arange(64, dtype=torch.float32)
    assert torch.equal(run(on_shim, "none"), thread.flip(0).view(2, 32).sum(1).repeat_interleave(32) + thread)
    assert on_shim.launches() == [("faulty", 1, 64, 256, 12)]


@pytest.mark.parametrize(("fault", "message"), NOTICED.items())
def test_what_a_gpu_would_not_forgive_is_an_error(on_shim: ModuleType, fault: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(on_shim, fault)
    run(on_shim, "none")  # and leaves nothing behind


def test_a_copy_that_is_not_waited_for_has_not_landed(on_shim: ModuleType) -> None:
    assert run(on_shim, "unwaited").isnan().all()


def test_a_write_past_the_end_of_shared_memory_is_an_error(on_shim: ModuleType) -> None:
    # Under AddressSanitizer the process ends here: tests/test_stencil_cuda.py leaves this test out there.
    with pytest.raises(RuntimeError, match="past the end of shared memory"):
        run(on_shim, "past_the_end")


@pytest.mark.parametrize("threads", [33, 1056])
def test_odd_blocks_are_refused(on_shim: ModuleType, threads: int) -> None:
    with pytest.raises(RuntimeError, match=f"a block of {threads} threads"):
        run(on_shim, "none", threads)
