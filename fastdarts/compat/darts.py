"""quark0/darts under its own names: `from fastdarts.compat.darts import Network, Architect` and nothing else changes.

Names of `model_search`, `architect`, `model`, `operations`, `genotypes`, and `drop_path` of `utils`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fastdarts import reference
from fastdarts.compat.architect import Architect
from fastdarts.compat.genotypes import PRIMITIVES, Genotype, to_genotype
from fastdarts.compat.inherit import inherit_weights
from fastdarts.compat.network import (
    Constructors,
    SearchNetwork,
    candidates,
    constructors,
    dense_cell,
    known_to_spaces,
)
from fastdarts.nn import (
    AuxiliaryHeadCIFAR,
    AuxiliaryHeadImageNet,
    DerivedNetwork,
    DilConv,
    FactorizedReduce,
    Identity,
    ReLUConvBN,
    SepConv,
    Zero,
    build_op,
)
from fastdarts.nn import Cell as _Cell
from fastdarts.nn import MixedOp as _MixedOp
from fastdarts.spaces import Genotype as _Genotype

__all__ = [
    "OPS",
    "PRIMITIVES",
    "Architect",
    "AuxiliaryHeadCIFAR",
    "AuxiliaryHeadImageNet",
    "Cell",
    "DilConv",
    "FactorizedReduce",
    "Genotype",
    "Identity",
    "MixedOp",
    "Network",
    "NetworkCIFAR",
    "NetworkImageNet",
    "ReLUConvBN",
    "SepConv",
    "Zero",
    "drop_path",
    "inherit_weights",
]


OPS = constructors()
"""Constructors of the primitives, called as `OPS[name](C, stride, affine)`: add your own, exchange them, or set another
dictionary; mixed operations and derived networks are built of what is here then."""


class MixedOp(_MixedOp):
    """All of :data:`PRIMITIVES` on one edge.

    Args:
        C: channels.
        stride: 1 or 2, pixels.

    Source: Liu et al. 2019 (DARTS), Eq. 2.
    """

    def __init__(self, C: int, stride: int) -> None:
        super().__init__(C, stride, candidates(OPS, PRIMITIVES, C, stride), stacked=False)
        self.primitives = tuple(PRIMITIVES)


class Cell(_Cell):
    """A searched cell in which every node takes every earlier state.

    Args:
        steps: number of nodes.
        multiplier: number of nodes, the last ones, that make the output.
        C_prev_prev: channels of the input from two layers before.
        C_prev: channels of the input from the layer before.
        C: channels of every state.
        reduction: whether edges from the two inputs have stride 2.
        reduction_prev: whether the layer before reduced.

    Source: Liu et al. 2019 (DARTS), section 2.1.
    """

    def __init__(
        self,
        steps: int,
        multiplier: int,
        C_prev_prev: int,
        C_prev: int,
        C: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__(
            dense_cell(steps, multiplier, PRIMITIVES, OPS),
            C_prev_prev,
            C_prev,
            C,
            reduction=reduction,
            reduction_prev=reduction_prev,
            stacked=False,
        )
        self._steps, self._multiplier = steps, multiplier

    def _build_edge(self, channels: int, stride: int, *_: object) -> nn.Module:
        return MixedOp(channels, stride)


class Network(SearchNetwork):
    """The search network of quark0's `model_search`, same weights and alphas after the same `torch.manual_seed`.

    Args:
        C: channels of the first cell.
        num_classes: number of classes.
        layers: number of cells.
        criterion: loss of logits and labels.
        steps: nodes of a cell.
        multiplier: nodes, the last ones, that make a cell's output.
        stem_multiplier: channels after the stem, in units of C.

    Attributes:
        alphas_normal: [E, K], a plain tensor that requires grad; alphas_reduce likewise.

    Source: Liu et al. 2019 (DARTS), section 3.1; quark0/darts `model_search.Network`.
    """

    cell_class = Cell

    @staticmethod
    def _primitives() -> tuple[list[str], Constructors]:
        return PRIMITIVES, OPS


class NetworkCIFAR(DerivedNetwork):
    """The evaluation network of quark0's `model`, CIFAR stem.

    Args:
        C: channels of the first cell.
        num_classes: number of classes.
        layers: number of cells.
        auxiliary: whether there is an auxiliary head.
        genotype: anything with quark0's four fields, a :class:`fastdarts.spaces.Genotype`, its text, or the name of a
            published one.
    """

    _stem = "cifar"

    def __init__(
        self, C: int, num_classes: int, layers: int, auxiliary: bool, genotype: Genotype | _Genotype | str
    ) -> None:
        known_to_spaces(OPS, OPS)

        def build(name: str, channels: int, stride: int) -> nn.Module:
            return (OPS.get(name) or partial(build_op, name, pool_bn=False))(channels, stride, True)

        super().__init__(
            to_genotype(genotype),
            channels=C,
            layers=layers,
            classes=num_classes,
            auxiliary=auxiliary,
            stem=self._stem,
            build=build,
        )


class NetworkImageNet(NetworkCIFAR):
    """The evaluation network of quark0's `model`, ImageNet stem; arguments as :class:`NetworkCIFAR`."""

    _stem = "imagenet"


def drop_path(x: Tensor, drop_prob: float) -> Tensor:
    """quark0's `utils.drop_path` on any device: :func:`fastdarts.reference.drop_path`, x itself left as it is."""
    return reference.drop_path(x, drop_prob)
