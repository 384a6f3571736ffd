"""The memory harness against hand counts and against the figures of the cost model's traces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastdarts.nn import MixedOp, Supernet
from fastdarts.profile import kept_bytes
from fastdarts.spaces import space


def test_counts_by_hand() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(5, 3)
    # x @ w.T keeps x (given) and the weight (given); tanh keeps its output, 5 x 4 floats.
    assert kept_bytes(lambda: torch.tanh(x @ weight.T), [weight, x]) == 5 * 4 * 4
    # The same storage kept twice counts once; not given, x counts too.
    assert kept_bytes(lambda: (x * weight[:1]).exp() + (x * weight[:1]), [weight]) == 2 * 5 * 3 * 4


def test_a_mixed_operation_keeps_29_times_its_input() -> None:
    """none 1, max 4 (indices are int64), avg 2, skip 0, separable 7 each, dilated 4 each, in units of N C H W."""
    with torch.device("meta"):
        op = MixedOp(16, 1, space("darts").normal.edges[0].primitives)
        x = torch.empty(64, 16, 32, 32, requires_grad=True)
        weights = torch.full((8,), 0.125, requires_grad=True)
    unit = 4 * x.numel()
    assert kept_bytes(lambda: op(x, weights), [x, weights, *op.parameters()]) == pytest.approx(29 * unit, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "partial", "channels", "layers", "batch", "gigabytes"),
    [("darts", 1, 16, 8, 64, 8.03), ("darts", 4, 16, 8, 256, 10.21), ("amended-s2", 1, 36, 20, 96, 11.96)],
)
def test_supernets_keep_what_the_peers_were_traced_to_keep(
    name: str, partial: int, channels: int, layers: int, batch: int, gigabytes: float
) -> None:
    with torch.device("meta"):
        model = Supernet(space(name), channels=channels, layers=layers, partial=partial)
        x, y = torch.empty(batch, 3, 32, 32), torch.empty(batch, dtype=torch.int64)
    kept = kept_bytes(lambda: F.cross_entropy(model(x), y), [*model.parameters(), x, y])
    assert kept / 1e9 == pytest.approx(gigabytes, abs=0.006)
