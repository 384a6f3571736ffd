"""Steps of the optimisers that move only what was drawn: what did not run has no gradient, not one of zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.nn import Supernet
from fastdarts.nn.cell import Active
from fastdarts.nn.stack import StackedConv2d

__all__ = ["DrawnWeights", "RowAdam"]

# A parameter's index in `Supernet.weight_parameters()`, its first element and the one after its last.
_Piece = tuple[int, int, int]


class DrawnWeights:
    """SGD on the operators that ran and on all that is no operator; the others' weights and momenta stay to the bit.

    `m = momentum m + g + decay w`, `w = w - lr m`, with Nesterov `w = w - lr (g + decay w + momentum m)`: torch's SGD,
    on the pieces of the supernet's stacked weights that belong to the operators of a pass.

    Args:
        model: the supernet.
        optimizer: torch's SGD over its weights; its rates are read and its momenta are moved.

    Source: Cai, Zhu, Han: ProxylessNAS, ICLR 2019; in its code an operator that was not drawn has no gradient, so that
    neither momentum nor weight decay moves it.
    """

    def __init__(self, model: Supernet, optimizer: torch.optim.Optimizer) -> None:
        self._weights, self._optimizer = model.weight_parameters(), optimizer
        self._keys = model.space.keys(model.layers)
        index = {id(weight): place for place, weight in enumerate(self._weights)}
        # By cell, edge and operator.
        self._pieces = [
            [[_pieces(op, index) for op in edge._ops] for edge in cell._ops]  # type: ignore[union-attr]
            for cell in model.cells
        ]
        candidates = {place for cell in self._pieces for edge in cell for op in edge for place, _, _ in op}
        self._others = [(place, 0, each.numel()) for place, each in enumerate(self._weights) if place not in candidates]

    @torch.no_grad()
    def step(self, active: Mapping[str, Active]) -> None:
        """Move the weights of a pass's operators along their gradients."""
        group = self._optimizer.param_groups[0]
        weights, gradients, momenta = self._drawn(active)
        decay = group["weight_decay"]
        slopes = [grad.add(weight, alpha=decay) for grad, weight in zip(gradients, weights, strict=True)]
        if group["momentum"]:
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, slopes)
            if group["nesterov"]:
                torch._foreach_add_(slopes, momenta, alpha=group["momentum"])
            else:
                slopes = momenta
        torch._foreach_add_(weights, slopes, alpha=-group["lr"])

    def _drawn(self, active: Mapping[str, Active]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        chosen = list(self._others)
        for key, edges in zip(self._keys, self._pieces, strict=True):
            for ops, ran in zip(edges, active[key], strict=True):
                for k in ran:
                    chosen += ops[k]
        weights, gradients, momenta = [], [], []
        for place, start, stop in chosen:
            weight = self._weights[place]
            if weight.grad is None:
                continue
            weights.append(weight.detach().view(-1)[start:stop])
            gradients.append(weight.grad.reshape(-1)[start:stop])
            momenta.append(self._momentum(weight).view(-1)[start:stop])
        return weights, gradients, momenta

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state: dict[str, Any] = self._optimizer.state[weight]
        if state.get("momentum_buffer") is None:
            # Contiguous: pieces of it are views.
            state["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _pieces(op: nn.Module, index: Mapping[int, int]) -> list[_Piece]:
    found = [(index[id(each)], 0, each.numel()) for each in op.parameters()]
    for layer in op.modules():
        if isinstance(layer, StackedConv2d):
            source = getattr(layer._part.stack, layer._home("weight"))
            start = layer.weight.storage_offset() - source.storage_offset()
            found.append((index[id(source)], start, start + layer.weight.numel()))
    return found


class RowAdam:
    """Adam on alphas of which every edge is a parameter of its own, so that one without a gradient stays as it is.

    Args:
        alphas: [E, width] each; rows of them are moved in place.
        settings: of torch's Adam.
    """

    def __init__(self, alphas: Sequence[nn.Parameter], settings: Mapping[str, Any]) -> None:
        self._rows = [[row.detach() for row in each.data] for each in alphas]
        self.optimizer = torch.optim.Adam([row for rows in self._rows for row in rows], **settings)

    def step(self, gradients: Sequence[Tensor], skipped: Sequence[Sequence[bool]]) -> None:
        """One step.

        Args:
            gradients: of each alphas, [E, width].
            skipped: for each of its edges whether it has none.
        """
        for rows, gradient, without in zip(self._rows, gradients, skipped, strict=True):
            for row, slope, skip in zip(rows, gradient, without, strict=True):
                row.grad = None if skip else slope
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
