"""What quark0's and PC-DARTS' search networks share: construction, architecture tensors, genotype."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts._backend import use_backend
from fastdarts.compat.genotypes import PRIMITIVES as PEER_PRIMITIVES
from fastdarts.compat.genotypes import Genotype, from_genotype
from fastdarts.errors import UserError
from fastdarts.nn import build_op, register_primitive
from fastdarts.nn.casting import for_modules, laid_out
from fastdarts.nn.trunk import Place, StackedCell, Trunk
from fastdarts.spaces import PRIMITIVES, CellSpace, Edge, Space, derive

__all__ = [
    "Constructors",
    "SearchNetwork",
    "architecture_tensor",
    "candidates",
    "constant_if_traced",
    "constructors",
    "dense_cell",
    "known_to_spaces",
]

Constructors = dict[str, Callable[[int, int, bool], nn.Module]]
"""quark0's `OPS`: called as `OPS[name](C, stride, affine)`."""

ALPHA_SCALE = 1e-3
DEFAULT_SIZES = {"steps": 4, "multiplier": 4, "stem_multiplier": 3}


def constructors() -> Constructors:
    """Those of quark0's primitives."""
    return {name: partial(build_op, name, pool_bn=False) for name in [*PEER_PRIMITIVES, "sep_conv_7x7", "conv_7x1_1x7"]}


def candidates(ops: Mapping[str, Any], primitives: Sequence[str], channels: int, stride: int) -> list[nn.Module]:
    """The candidates of an edge, as the peers build them: a batch norm after what is named a pool.

    Raises:
        UserError: a name without a constructor.
    """
    missing = [name for name in primitives if name not in ops]
    if missing:
        raise UserError(
            f"PRIMITIVES has {', '.join(missing)}", f"names in OPS: {', '.join(ops)}", "add its constructor"
        )
    built = [(name, ops[name](channels, stride, False)) for name in primitives]
    return [nn.Sequential(op, nn.BatchNorm2d(channels, affine=False)) if "pool" in name else op for name, op in built]


def known_to_spaces(ops: Mapping[str, Any], names: Iterable[str]) -> None:
    """Let spaces and genotypes name operations that only a peer's `OPS` has."""
    for name in names:
        if name not in PRIMITIVES and name in ops:
            register_primitive(name, ops[name])


def dense_cell(steps: int, multiplier: int, primitives: Sequence[str], ops: Mapping[str, Any]) -> CellSpace:
    """The cell in which every node takes every earlier state, all primitives on every edge.

    Args:
        steps: number of nodes.
        multiplier: number of nodes, the last ones, that make the output.
        primitives: the candidates, in the order of the columns of alpha.
        ops: constructors, of those too that no space knows.

    Raises:
        UserError: fewer nodes than the output takes.
    """
    if not 1 <= multiplier <= steps:
        raise UserError(f"multiplier is {multiplier} in a cell of {steps} steps", f"1 to {steps}")
    known_to_spaces(ops, primitives)
    edges = (Edge(source, node, tuple(primitives)) for node in range(2, 2 + steps) for source in range(node))
    return CellSpace(tuple(edges), steps, tuple(range(2 + steps - multiplier, 2 + steps)))


class SearchNetwork(Trunk):
    """A search network whose architecture parameters are plain tensors, outside `parameters()` and `state_dict()`.

    They follow `.to()`, `.cuda()` and `.double()` in place, so that an optimiser made before keeps them.
    """

    cell_class: Callable[..., StackedCell]

    @staticmethod
    def _primitives() -> tuple[Sequence[str], Constructors]:
        """The candidates of every edge and their constructors, read of the peer's module when a network is built."""
        raise NotImplementedError

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        criterion: Callable[[Tensor, Tensor], Tensor],
        steps: int = DEFAULT_SIZES["steps"],
        multiplier: int = DEFAULT_SIZES["multiplier"],
        stem_multiplier: int = DEFAULT_SIZES["stem_multiplier"],
    ) -> None:
        cell_class = type(self).cell_class

        def build_cell(place: Place) -> StackedCell:
            return cell_class(
                steps,
                multiplier,
                place.c_prev_prev,
                place.c_prev,
                place.channels,
                place.reduction,
                place.reduction_prev,
            )

        cell = dense_cell(steps, multiplier, *self._primitives())
        super().__init__(
            build_cell,
            channels=C,
            layers=layers,
            reductions=(layers // 3, 2 * layers // 3),
            classes=num_classes,
            in_channels=3,
            stem="cifar",
            stem_channels=stem_multiplier * C,
        )
        self._C, self._num_classes, self._layers, self._criterion = C, num_classes, layers, criterion
        self._steps, self._multiplier, self._stem_multiplier = steps, multiplier, stem_multiplier
        self.space = Space("quark0", cell, cell, layers=layers, source="Liu et al. 2019 (DARTS)")
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        cell = self.space.normal
        self.alphas_normal = architecture_tensor(len(cell.edges), cell.width)
        self.alphas_reduce = architecture_tensor(len(cell.edges), cell.width)
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]

    def arch_parameters(self) -> list[Tensor]:
        """The architecture parameters, in the peers' order; the list that the optimiser of the alphas takes."""
        return self._arch_parameters

    def new(self) -> SearchNetwork:
        """A network of the same sizes with these alphas and fresh weights, on the same device, of the same dtype."""
        # Subclasses often take the first four arguments alone, which is all that the peers' `new` gives.
        sizes = {"steps": self._steps, "multiplier": self._multiplier, "stem_multiplier": self._stem_multiplier}
        changed = {name: size for name, size in sizes.items() if size != DEFAULT_SIZES[name]}
        fresh = type(self)(self._C, self._num_classes, self._layers, self._criterion, **changed).to(self.alphas_normal)
        with torch.no_grad():
            for theirs, ours in zip(fresh.arch_parameters(), self.arch_parameters(), strict=True):
                theirs.copy_(ours)
        return fresh

    def forward(self, input: Tensor) -> Tensor:
        """Logits [N, num_classes] of images [N, 3, H, W]; in plain torch where a trace or ONNX export listens."""
        with use_backend("reference") if exported() else nullcontext():
            return self._logits(input)

    def _logits(self, input: Tensor) -> Tensor:
        older, newer = map(laid_out, self.begin(for_modules(input)))
        for cell in self.cells:
            # Anew for every cell, as the peers do: the gradients of the alphas are then summed in their order.
            older, newer = newer, cell(older, newer, *self.relaxed("reduce" if cell.reduction else "normal"))
        return self.classify(for_modules(newer))

    def relaxed(self, kind: str) -> tuple[Tensor, ...]:
        """The mixing weights of the cells of a kind, `normal` or `reduce`; [E, K]."""
        return (constant_if_traced(getattr(self, f"alphas_{kind}")).softmax(dim=-1),)

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)

    @torch.no_grad()
    def genotype(self) -> Genotype:
        """The discrete architecture of the present alphas: two strongest edges a node, their strongest primitives."""
        relaxed = {kind: self.relaxed(kind) for kind in ("normal", "reduce")}
        weights = {kind: each[0] for kind, each in relaxed.items()}
        edge_weights = {kind: each[1] for kind, each in relaxed.items() if len(each) > 1}
        return from_genotype(derive(self.space, weights, layers=self._layers, edge_weights=edge_weights or None))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for alpha in self.arch_parameters():
            alpha.data = fn(alpha.data)
            if alpha.grad is not None:
                alpha.grad.data = fn(alpha.grad.data)
        return self


def exported() -> bool:
    """Whether `torch.jit.trace` or `torch.onnx.export` listens: they know no fused operations."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def constant_if_traced(alpha: Tensor) -> Tensor:
    """An architecture tensor; without gradient under `torch.jit.trace`, which takes no constant with one."""
    # Not `detach`, which would be recorded, and with it what it was called on.
    return alpha.data if torch.jit.is_tracing() else alpha


def architecture_tensor(*shape: int) -> Tensor:
    """Small random values [*shape] that require grad, a leaf: 1e-3 * normal(0, 1), as the peers start."""
    return (ALPHA_SCALE * torch.randn(*shape)).requires_grad_()
