"""The fixed cases of `fastdarts bench`: a network of the engine and its twin in eager torch, of the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.nn import Cell, MixedOp, Supernet
from fastdarts.nn.trunk import Place
from fastdarts.plan import cell_plan, flops, mixed_op_plan
from fastdarts.profile import supernet_flops
from fastdarts.profile.eager import PlainCell, PlainMixedOp, PlainSupernet
from fastdarts.spaces import space

__all__ = ["CASES", "Case", "Twins"]


class Twins(NamedTuple):
    """What is measured.

    Args:
        ours: the module on the engine.
        eager: the same in plain torch, of the same weights.
        inputs: what both are called with; those that require gradients get theirs.
        loss: from the output, of as many images as it has, to a scalar; None for a fixed random gradient of the output.
        gflop: of a step, by the plan, in 1e9; without the cell's preprocessing where it is a cell alone.
    """

    ours: nn.Module
    eager: nn.Module
    inputs: list[Tensor]
    loss: Callable[[Tensor], Tensor] | None
    gflop: float | None


@dataclass(frozen=True)
class Case:
    """One case.

    Args:
        name: as it is asked for.
        title: as it stands in tables.
        settings: what it is made of; two files are compared only where these are the same.
        build: makes the twins from the settings.
        rounds: timed rounds in the quick suite and in the full one.
        compiled: whether `torch.compile` can be a contender. Not of whole networks: a cell alone compiles for minutes.
    """

    name: str
    title: str
    settings: dict[str, Any]
    build: Callable[..., Twins] = field(repr=False)
    rounds: tuple[int, int]
    compiled: bool = False

    def twins(self) -> Twins:
        """Built from seed 0."""
        torch.manual_seed(0)
        twins = self.build(**self.settings)
        twins.ours.load_state_dict(twins.eager.state_dict())
        return twins


def _mixed_op(space_name: str, channels: int, batch: int, side: int, stride: int) -> Twins:
    primitives = space(space_name).normal.edges[0].primitives
    x = torch.randn(batch, channels, side, side, requires_grad=True)
    weights = torch.randn(len(primitives)).softmax(0).requires_grad_()
    plan = mixed_op_plan(primitives, channels, stride)
    assert plan is not None
    work = flops(plan, batch, side, side, "fast")
    ours, eager = MixedOp(channels, stride, primitives), PlainMixedOp(channels, stride, primitives, 1)
    return Twins(ours, eager, [x, weights], None, (work.forward + work.backward).total / 1e9)


def _cell(space_name: str, channels: int, batch: int, side: int) -> Twins:
    edges = space(space_name).normal
    wide = len(edges.concat) * channels
    s0, s1 = (torch.randn(batch, wide, side, side, requires_grad=True) for _ in range(2))
    weights = torch.randn(len(edges.edges), edges.width).softmax(1).requires_grad_()
    ours = Cell(edges, wide, wide, channels, reduction=False, reduction_prev=False)
    eager = PlainCell(edges, Place(0, wide, wide, channels, False, False), 1)
    plan = cell_plan(edges, channels)
    assert plan is not None
    work = flops(plan, batch, side, side, "fast")
    return Twins(ours, eager, [s0, s1, weights], None, (work.forward + work.backward).total / 1e9)


def _network(space_name: str, channels: int, layers: int, batch: int, side: int, partial: int) -> Twins:
    eager = PlainSupernet(space(space_name), channels=channels, layers=layers, partial=partial)
    ours = Supernet(space(space_name), channels=channels, layers=layers, partial=partial)
    images, labels = torch.randn(batch, 3, side, side), torch.arange(batch) % 10
    work = supernet_flops(ours, batch, side, side)
    gflop = None if work is None else (work.forward + work.backward).total / 1e9
    return Twins(ours, eager, [images], lambda logits: F.cross_entropy(logits, labels[: len(logits)]), gflop)


def _networks(space_name: str, channels: int, layers: int, batch: int, partial: int = 1) -> dict[str, Any]:
    sizes = {"space_name": space_name, "channels": channels, "layers": layers, "batch": batch}
    return {**sizes, "side": 32, "partial": partial}


CASES = (
    *(
        Case(
            "mixed-op" if stride == 1 else "mixed-op-2",
            f"MixedOp, stride {stride}, C 16, batch 16, 32x32",
            {"space_name": "darts", "channels": 16, "batch": 16, "side": 32, "stride": stride},
            _mixed_op,
            (20, 60),
            compiled=stride == 1,
        )
        for stride in (1, 2)
    ),
    Case(
        "cell",
        "normal Cell, C 16, batch 16, 32x32",
        {"space_name": "darts", "channels": 16, "batch": 16, "side": 32},
        _cell,
        (5, 20),
        compiled=True,
    ),
    Case("darts", "DARTS, C 16, 8 cells, batch 16", _networks("darts", 16, 8, 16), _network, (3, 10)),
    Case("pc-darts", "PC-DARTS, K 4, C 16, 8 cells, batch 32", _networks("darts", 16, 8, 32, 4), _network, (3, 10)),
    Case("s2", "S2, 2 operators, C 36, 20 cells, batch 4", _networks("amended-s2", 36, 20, 4), _network, (3, 10)),
    Case(
        "s2-full",
        "S2, 7 operators, C 36, 20 cells, batch 4",
        _networks("amended-s2-full", 36, 20, 4),
        _network,
        (3, 10),
    ),
)
"""The cases, in the order in which they are measured; both suites have all of them, at the same sizes."""
