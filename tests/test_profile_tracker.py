"""The tracker: by hand, against torch's own allocator events, and on the meta device against real tensors."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.ops import maps
from fastdarts.profile import Tracker, kept_bytes
from fastdarts.spaces import define_space, space

MEGABYTE = 4 * 2**18


def ones(count: int) -> Tensor:
    """`count` megabytes."""
    return torch.ones(count, 2**18)


def test_live_and_peak_by_hand() -> None:
    given = ones(1)
    with Tracker([given]) as tracker:
        a = ones(2)
        b = given + 1.0
        assert tracker.live == tracker.peak == 3 * MEGABYTE
        c = (a.view(-1)[5:], a.t(), given[0], given.detach())
        assert tracker.live == 3 * MEGABYTE, "views make nothing"
        a.add_(1.0)
        del a, b
        assert tracker.live == 2 * MEGABYTE, "a view holds its storage"
        del c
        assert tracker.live == 0
        ones(1)
    assert tracker.live == 0
    assert tracker.peak == 3 * MEGABYTE
    ones(9)
    assert tracker.peak == 3 * MEGABYTE, "what is made outside does not count"


def test_an_operation_that_returns_several() -> None:
    with Tracker() as tracker:
        given = torch.empty(2**18)
        values, indices = torch.sort(given)  # float32 and int64
        assert tracker.live == tracker.peak == MEGABYTE + MEGABYTE + 2 * MEGABYTE
        del given
        del indices
    assert tracker.live == MEGABYTE
    assert values.shape == (2**18,)
    del values
    assert tracker.live == 0, "what is freed later still counts as freed"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_the_fused_ops_allocate_inside_counts(device: str) -> None:
    with Tracker() as tracker:
        out = maps.empty_maps(2, 8, 128, 128, like=torch.empty(0, device=device))
        scratch = maps.empty(MEGABYTE, dtype=torch.uint8, device=out.device)
        assert tracker.live == 2 * MEGABYTE
        del scratch
        assert tracker.live == MEGABYTE
        assert out.shape == (2, 8, 128, 128)


def test_kept_is_what_the_graph_holds_between_the_passes() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(5, 3)
    with Tracker([weight, x]) as tracker:
        y = torch.tanh(x @ weight.T)
        assert tracker.kept() == 5 * 4 * 4
        y.sum().backward()
        del y
        assert tracker.kept() == 0


def test_a_freed_storage_gives_its_identity_back() -> None:
    """The same address many times: each is counted, none is counted twice."""
    with Tracker() as tracker:
        for _ in range(50):
            assert ones(1).sum() == 2**18
            assert tracker.live <= MEGABYTE + 64
    assert tracker.live == 0
    assert tracker.peak <= MEGABYTE + 64


def _pass(model: Supernet, images: Tensor, labels: Tensor) -> Tracker:
    with Tracker([*model.parameters(), *model.buffers(), images, labels]) as tracker:
        F.cross_entropy(model(images), labels).backward()
    return tracker


def _supernet(dtype: torch.dtype, partial: int) -> tuple[Supernet, Tensor, Tensor]:
    small = define_space("small", space("darts").normal.edges[0].primitives, nodes=2)
    model = Supernet(small, channels=8, layers=3, partial=partial).to(dtype)
    return model, torch.randn(4, 3, 16, 16).to(dtype), torch.zeros(4, dtype=torch.int64)


def _allocator_peak(model: Supernet, images: Tensor, labels: Tensor) -> int:
    """The peak of one pass by the events of torch's own allocator."""
    # Without acc_events torch 2.11 warns that the next cycle will clear the events of this one.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        F.cross_entropy(model(images), labels).backward()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_allocator_saw_the_same_peak(dtype: torch.dtype, partial: int, backend: str) -> None:
    """What kernels allocate within themselves is the difference: of the reference's a few kilobytes, of the fused
    ones' coefficients, one number a channel and candidate, and their weights as float32."""
    with use_backend(backend):
        model, images, labels = _supernet(dtype, partial)
        tracked = _pass(model, images, labels).peak
        model.zero_grad(set_to_none=True)
        gc.collect()
        allocated = _allocator_peak(model, images, labels)
    unseen = 10_000 if backend == "reference" else 2 * sum(4 * p.numel() for p in model.parameters())
    assert tracked <= allocated <= tracked + unseen


def test_kept_bytes_agrees() -> None:
    model, images, labels = _supernet(torch.float32, 1)
    given = [*model.parameters(), *model.buffers(), images, labels]
    with Tracker(given) as tracker:
        loss = F.cross_entropy(model(images), labels)
        kept = tracker.kept()
    assert kept == kept_bytes(lambda: F.cross_entropy(model(images), labels), given)
    assert loss.requires_grad
