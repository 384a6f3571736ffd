"""Bytes and FLOPs of a cell: against counted convolutions, hand counts and the cost model's figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plan_interpreter import Interpreter
from test_plan import hand_made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.errors import UserError
from fastdarts.plan import MEMORY, CellPlan, Flops, Work, cell_plan, flops, kept_bytes, kept_rows
from fastdarts.spaces import space

CASES = [("darts", 1, False), ("darts", 2, True), ("s4", 1, True), ("amended-s2-full", 1, False)]


def plan_of(name: str, partial: int, reduction: bool, channels: int = 4) -> CellPlan:
    found = cell_plan(space(name).normal, channels, partial=partial, reduction=reduction)
    assert found is not None
    return found


class Convolutions(TorchDispatchMode):
    """Counts multiply-adds, times two, of depthwise and of pointwise convolutions as torch runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.stencil = self.pointwise = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.count(args[1], result, 1)
        elif func is torch.ops.aten.convolution_backward.default:
            # Gradients of the input and of the weight: each touches every pair of a tap and an output once.
            self.count(args[2], args[0], args[-1][0] + args[-1][1])
        return result

    def count(self, weight: Tensor, out: Tensor, times: int) -> None:
        found = 2 * out.numel() * weight[0].numel() * times
        if weight.shape[-1] > 1:
            self.stencil += found
        else:
            self.pointwise += found


def counted(plan: CellPlan, n: int, height: int, width: int) -> tuple[Convolutions, Convolutions]:
    """The convolutions of the interpreted plan, forward and eager torch's backward."""
    with torch.device("meta"):
        inputs = [torch.empty(n, plan.channels, height, width, requires_grad=True) for _ in range(plan.inputs)]
        parameters = [torch.empty(each.shape, requires_grad=True) for each in plan.parameters]
        weights = torch.empty(len(plan.edges), plan.width)
        stride = plan.stride
        noises = [torch.empty(n, plan.mixed, -(-height // stride), -(-width // stride)) for _ in plan.noises]
        with Convolutions() as forward:
            out = Interpreter(plan, inputs, weights, parameters).forward("fast", noises, torch.empty(len(plan.edges)))
        with Convolutions() as backward:
            out.sum().backward()
    return forward, backward


@pytest.mark.parametrize(("name", "partial", "reduction"), CASES)
def test_flops_are_those_of_the_convolutions(name: str, partial: int, reduction: bool) -> None:
    plan = plan_of(name, partial, reduction)
    forward, backward = counted(plan, 2, 6, 5)
    found = flops(plan, 2, 6, 5, "fast")
    assert (found.forward.stencil, found.forward.pointwise) == (forward.stencil, forward.pointwise)
    assert found.backward.pointwise == backward.pointwise
    # Eager keeps the depthwise output, which we compute once more for the pointwise weight's gradient.
    assert found.backward.stencil == backward.stencil + forward.stencil


@pytest.mark.parametrize(("name", "partial", "reduction"), CASES)
def test_an_architecture_step_asks_less(name: str, partial: int, reduction: bool) -> None:
    plan = plan_of(name, partial, reduction)
    for memory in MEMORY:
        weights, alphas = (flops(plan, 2, 6, 5, memory, weights=asked) for asked in (True, False))
        assert alphas.forward == weights.forward
        assert weights.backward.stencil - alphas.backward.stencil == 2 * weights.forward.stencil
        assert weights.backward.pointwise - alphas.backward.pointwise == weights.forward.pointwise
        assert weights.backward.elementwise == alphas.backward.elementwise


def test_what_is_not_kept_is_computed_once_more() -> None:
    plan = plan_of("darts", 1, True)
    fast, balanced, lean = (flops(plan, 2, 6, 6, memory) for memory in MEMORY)
    assert lean.backward.stencil - fast.backward.stencil == fast.forward.stencil
    assert lean.backward.pointwise - fast.backward.pointwise == fast.forward.pointwise
    # First halves, 28 of the 92 values, are kept.
    pixels = 2 * 3 * 3
    assert lean.backward.pointwise - balanced.backward.pointwise == 28 * 2 * 4 * 4 * pixels
    assert lean.backward.stencil - balanced.backward.stencil == 14 * 2 * (9 + 25) * 4 * pixels
    assert fast.forward.stencil == balanced.forward.stencil == lean.forward.stencil


@pytest.mark.parametrize(
    ("channels", "side", "reduction", "stencil", "pointwise"),
    [(16, 32, False, 3.00, 2.82), (32, 32, True, 1.50, 3.09), (64, 8, False, 0.75, 2.82)],
)
def test_darts_cells_as_the_cost_model_traced_them(
    channels: int, side: int, reduction: bool, stencil: float, pointwise: float
) -> None:
    forward = flops(plan_of("darts", 1, reduction, channels), 64, side, side, "fast").forward
    assert forward.stencil / 1e9 == pytest.approx(stencil, abs=0.006)
    assert forward.pointwise / 1e9 == pytest.approx(pointwise, abs=0.006)
    assert 0 < forward.elementwise < forward.stencil + forward.pointwise


def test_elementwise_counts_by_hand() -> None:
    """An identity of one state into one node: a multiply-add an element; backward reads g, its sum and its product."""
    plan = cell_plan(space("darts").normal, 2, active=[(3,), *[()] * 13])
    found = flops(plan, 3, 5, 4, "fast")
    elements = 3 * 5 * 4 * 2
    assert found.forward == Work(0, 0, 2 * elements)
    # G, the product with x and the multiply-add into the source's gradient; nothing runs for the nodes without edges.
    assert found.backward == Work(0, 0, (1 + 2 + 2) * elements)
    assert found.total == found.forward.total + found.backward.total
    assert found + found == Flops(found.forward + found.forward, found.backward + found.backward)


def test_kept_bytes_by_hand() -> None:
    """One input, two nodes, 7 by 5 pixels, C 4, K 2: sep has two values, dil one, and one pool adds statistics."""
    plan, pixels = hand_made(), 3 * 7 * 5
    states, norms = 3 * 4 * pixels, 16 * 2 * 4
    for memory, values in (("fast", 3), ("balanced", 1), ("lean", 0)):
        assert kept_bytes(plan, 3, 7, 5, 2, memory) == 2 * (states + values * 2 * pixels) + norms
        assert len(kept_rows(plan, memory)) == values
    halved = cell_plan(space("s4").normal, 6, reduction=True)
    # 14 noises and 28 values on 14 edges.
    assert kept_bytes(halved, 1, 5, 5, 4, "fast") == 4 * 6 * (2 * 25 + (4 + 14 + 28) * 9) + 16 * 6 * 28


def test_kept_bytes_of_a_darts_cell_beside_eager() -> None:
    """Eager keeps 420 times N C H W (performance.md, section 1)."""
    plan = plan_of("darts", 1, False, 16)
    unit = 4 * 64 * 16 * 32 * 32
    ratios = [420 * unit / kept_bytes(plan, 64, 32, 32, 4, memory) for memory in MEMORY]
    assert ratios == pytest.approx([4.67, 12.4, 69.9], rel=0.01)


def test_sizes_and_modes_are_checked() -> None:
    for bad in ((0, 5, 5), (1, 0, 5), (1, 5, 0)):
        with pytest.raises(UserError, match="at least 1"):
            kept_bytes(hand_made(), *bad, 4, "fast")
        with pytest.raises(UserError, match="at least 1"):
            flops(hand_made(), *bad, "fast")
    with pytest.raises(UserError, match="one of fast, balanced, lean"):
        kept_bytes(hand_made(), 1, 5, 5, 4, "slow")
