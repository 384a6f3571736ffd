"""What a mixture would cost, differentiable by its weights: a penalty on the architecture level's loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.nn.operations import build_op
from fastdarts.search.config import SearchConfig
from fastdarts.spaces import Genotype, Space

__all__ = ["Cost", "cost_of", "operator_costs"]

_PIXELS = 9


class Cost:
    """The expected cost of a supernet's cells, `E = sum over edges e and operators k of w[e, k] c[e, k]`.

    c is what the operator would cost in the derived network, in all cells that share it, all channels running; `none`
    and skip connections at stride 1 cost nothing. An edge counts as though the genotype kept it.

    Args:
        model: the supernet.
        config: `cost` says what is counted, `channels` how wide the derived network is.
        size: height and width of the images.

    Attributes:
        table: {key: [E, width]}, float64, on the model's device.
    """

    def __init__(self, model: Supernet, config: SearchConfig, size: tuple[int, int]) -> None:
        self._config = config
        device = next(iter(model.arch.alphas.values())).device
        costs = operator_costs(model.space, config.cost, config.channels, model.layers, config.stem, size)
        self.table = {key: rows.to(device) for key, rows in costs.items()}

    def expected(self, weights: Mapping[str, Any]) -> Tensor:
        """E under mixing weights {key: [E, width]}, a float64 scalar."""
        return torch.stack([(self.table[key] * weights[key].double()).sum() for key in self.table]).sum()

    def penalised(self, loss: Tensor, weights: Mapping[str, Any]) -> Tensor:
        """The loss with the penalty: `cost_form` with `cost_weight` l and `cost_target` T.

        `add`: `L + l E`, with a target `L + l (E - T) / T`. `multiply`: `L (log E / log T)^l`.

        Source: Xie et al. 2019 (SNAS), section 2.4 (add); Cai et al. 2019 (ProxylessNAS), Eq. 6 and its code's
        `add#linear` and `mul#log`.
        """
        config, expected = self._config, self.expected(weights)
        if config.cost_form == "multiply":
            target = torch.tensor(config.cost_target, dtype=torch.float64, device=expected.device)
            # Below one unit there is nothing left to save, and no logarithm.
            ratio = expected.clamp(min=1.0 + 1e-6).log() / target.log()
            return loss * (ratio**config.cost_weight).to(loss.dtype)
        target_of = config.cost_target
        term = (expected - target_of) / target_of if target_of else expected
        return loss + (config.cost_weight * term).to(loss.dtype)

    def told(self, space: Space, weights: Mapping[str, Any], genotype: Genotype, layers: int) -> dict[str, Any]:
        """What an epoch's record says: of the mixture, and of the genotype that was derived from it."""
        costs = {
            "expected": float(self.expected(weights).detach()),
            "genotype": cost_of(space, genotype, layers, self.table),
        }
        return {"cost": costs}


def cost_of(space: Space, genotype: Genotype, layers: int, table: Mapping[str, Tensor]) -> float:
    """What the operators of a genotype cost by a table {key: [E, width]}."""
    total = 0.0
    for key in space.arch_keys(layers):
        chosen, rows = set(genotype.edges(key)), table[key].tolist()
        for edge, row in zip(space.cell(key, layers).edges, rows, strict=True):
            total += sum(row[k] for k, op in enumerate(edge.primitives) if (op, edge.source, edge.node) in chosen)
    return total


def operator_costs(
    space: Space, what: str, channels: int, layers: int, stem: str, size: tuple[int, int]
) -> dict[str, Tensor]:
    """What every operator of every edge would cost in the derived network, {key: [E, width]}, float64.

    Args:
        space: the search space.
        what: `parameters`; `multiply-adds` of an image; `accesses`, the elements that its layers read and write, and
            their weights; or `resources`, SNAS' sum of the three: `0.43 (2 parameters + multiply-adds / 4000 +
            accesses / 100)`.
        channels: C of the first cell.
        layers: number of cells.
        stem: `cifar` or `imagenet`, which leaves an eighth of the side.
        size: height and width of the images, pixels.

    Raises:
        UserError: something else to count.
    """
    if what not in _COUNTED:
        raise UserError(f"cost is {what!r}", f"one of {', '.join(_COUNTED)}")
    shrink = 8 if stem == "imagenet" else 1
    height, width = (-(-side // shrink) for side in size)
    found: dict[str, Tensor] = {}
    known: dict[tuple[str, int, int, tuple[int, int]], tuple[float, float, float]] = {}
    for key in space.arch_keys(layers):
        cell = space.cell(key, layers)
        found[key] = torch.zeros(len(cell.edges), cell.width, dtype=torch.float64)
    for key, kind in zip(space.keys(layers), space.kinds(layers), strict=True):
        reduction = kind == "reduce"
        outside = (height, width)
        if reduction:
            channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
        for e, edge in enumerate(space.cell(key, layers).edges):
            stride = 2 if reduction and edge.source < 2 else 1
            source = outside if stride == 2 else (height, width)
            for k, name in enumerate(edge.primitives):
                if (name, channels, stride, source) not in known:
                    known[name, channels, stride, source] = _counts(name, channels, stride, source)
                found[key][e, k] += _COUNTED[what](*known[name, channels, stride, source])
    return found


_COUNTED = {
    "parameters": lambda parameters, products, accesses: parameters,
    "multiply-adds": lambda parameters, products, accesses: products,
    "accesses": lambda parameters, products, accesses: accesses,
    "resources": lambda parameters, products, accesses: 0.43 * (2 * parameters + products / 4000 + accesses / 100),
}


def _counts(name: str, channels: int, stride: int, size: tuple[int, int]) -> tuple[float, float, float]:
    """Weights, multiply-adds of an image, and elements read and written, of one operator's convolutions and pools."""
    totals = [0.0, 0.0, 0.0]

    def count(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        weights = layer.weight.numel() if isinstance(layer, nn.Conv2d) else 0
        pixels = out.shape[2] * out.shape[3]
        totals[0] += weights
        totals[1] += weights * pixels if weights else _PIXELS * out.numel()
        totals[2] += weights + given[0].numel() + out.numel()

    with torch.device("meta"):
        op = build_op(name, channels, stride, affine=False, pool_bn=False).eval()
        for layer in op.modules():
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
                layer.register_forward_hook(count)
        with torch.no_grad():
            op(torch.empty(1, channels, *size))
    return totals[0], totals[1], totals[2]
