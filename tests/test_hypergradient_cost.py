"""What each kind of hypergradient costs: passes, gradients asked for, graphs alive at once."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from hypergradient_problems import Problem
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.hypergradient import KINDS, hypergradient

# kind: (train forward, train backward, train double backward, validation forward, validation backward). A double
# backward runs back through the backward's graph and then through the forward's: it counts once in each column.
PASSES = {
    "one-level": (1, 1, 0, 0, 0),
    "first": (0, 0, 0, 1, 1),
    "second": (3, 3, 0, 1, 1),
    "second-exact": (2, 2 + 1, 1, 1, 1),
    "amended": (4, 4, 0, 1, 1),
    "amended-exact": (1, 1 + 2, 2, 1, 1),
}


class Token:
    """Lives exactly as long as the graph node that holds it."""


class Probe(torch.autograd.Function):
    """The identity; counts its passes by level, and what they were asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, a: Tensor, log: Log, level: str) -> Tensor:
        ctx.log, ctx.level, ctx.token = log, level, Token()
        log.alive.append(len(log.tokens))
        log.tokens.add(ctx.token)
        log.count[level, "forward"] += 1
        log.asked.append((level, *ctx.needs_input_grad[1:3]))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.log.count[ctx.level, "backward"] += 1
        return ProbeBackward.apply(g, ctx.log, ctx.level), None, None, None, None


class ProbeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, log: Log, level: str) -> Tensor:
        ctx.log, ctx.level = log, level
        return g.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.log.count[ctx.level, "double backward"] += 1
        return g, None, None


class Log:
    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()
        self.asked: list[tuple[str, bool, bool]] = []
        self.alive: list[int] = []
        self.tokens: weakref.WeakSet[Token] = weakref.WeakSet()


def probed() -> tuple[Log, Problem]:
    """A small convolutional mixture whose losses go through a probe."""
    log = Log()
    stem, left, right = (nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64) for _ in range(3))
    a = torch.randn(2, dtype=torch.float64, requires_grad=True)
    images = torch.randn(3, 2, 5, 5, dtype=torch.float64)

    def loss(level: str) -> Tensor:
        weight, x = a.softmax(0), stem(images).tanh()
        x = weight[0] * left(x).tanh() + weight[1] * right(x).sin()
        return Probe.apply(x, left.weight, a, log, level).square().mean()

    weights = [w for module in (stem, left, right) for w in module.parameters()]
    return log, Problem(lambda: loss("train"), lambda: loss("val"), weights, [a], {"lr": 0.1})


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_passes(kind: str) -> None:
    log, problem = probed()
    hypergradient(kind, **problem.arguments)
    names = (("train", "forward"), ("train", "backward"), ("train", "double backward"))
    names += (("val", "forward"), ("val", "backward"))
    assert tuple(log.count[name] for name in names) == PASSES[kind]
    assert sum(log.count.values()) == sum(PASSES[kind])


def test_number_of_passes_does_not_depend_on_the_direction() -> None:
    log, problem = probed()
    problem.loss_val = lambda: problem.alphas[0].square().sum()
    hypergradient("amended", **problem.arguments)
    assert log.count["train", "forward"] == PASSES["amended"][0]


# kind: of each forward in turn, its level and whether its graph holds weights and alphas
GRAPHS = {
    "one-level": [("train", False, True)],
    "first": [("val", False, True)],
    "second": [("train", True, False), ("val", True, True), ("train", False, True), ("train", False, True)],
    "second-exact": [("train", True, False), ("val", True, True), ("train", True, True)],
    "amended": [("val", True, True)] + 2 * [("train", True, False)] + 2 * [("train", False, True)],
    "amended-exact": [("val", True, True), ("train", True, True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_hold_only_what_is_wanted(kind: str) -> None:
    # needs_input_grad is settled in the forward: autograd.grad's inputs alone would not spare a fused operation's
    # backward the weight gradients.
    log, problem = probed()
    hypergradient(kind, **problem.arguments)
    assert log.asked == GRAPHS[kind]


class ConvolutionGradients(TorchDispatchMode):
    """Records which gradients each convolution's backward computes: (input, weight, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[bool, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


def test_architecture_pass_runs_no_backward_at_all_below_the_alphas() -> None:
    # The alphas stand after every convolution here: their gradient needs no convolution's backward.
    for kind in ("one-level", "first"):
        _, problem = probed()
        with ConvolutionGradients() as seen:
            hypergradient(kind, **problem.arguments)
        assert seen.masks == []


def test_weight_pass_computes_weight_gradients_once() -> None:
    _, problem = probed()
    with ConvolutionGradients() as seen:
        hypergradient("second", **problem.arguments)
    # Training pass at w and validation pass at w', three convolutions each; the passes at w +- R v need none.
    assert len(seen.masks) == 6
    assert all(mask[1:] == (True, True) for mask in seen.masks)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_at_a_time_and_none_left(kind: str) -> None:
    log, problem = probed()
    hypergradient(kind, **problem.arguments)
    gc.collect()
    gc.disable()
    try:
        log.alive.clear()
        for _ in range(3):
            hypergradient(kind, **problem.arguments)
            # Without the collector's help: a graph in a cycle would pile up until it happens to run.
            assert len(log.tokens) == 0
    finally:
        gc.enable()
    assert set(log.alive) == {0}, "a pass began while the graph of an earlier one was alive"


def test_weights_are_copied_only_by_kinds_that_move_them() -> None:
    class Clones(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.clone.default and args[0].shape[-2:] == (3, 3):
                Clones.count += 1
            return func(*args, **(kwargs or {}))

    for kind in KINDS:
        _, problem = probed()
        Clones.count = 0
        with Clones():
            hypergradient(kind, **problem.arguments)
        # Three convolutions' weights, once.
        assert Clones.count == (0 if kind in ("one-level", "first", "amended-exact") else 3), kind
