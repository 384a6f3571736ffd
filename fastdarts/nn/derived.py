"""The derived network: what a genotype stands for, trained from scratch in the evaluation phase."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.checks import check_maps
from fastdarts.nn.operations import FactorizedReduce, Identity, ReLUConvBN, build_op
from fastdarts.nn.trunk import Place, StackedCell, Trunk, check_trunk
from fastdarts.spaces import CellGenotype, Genotype

__all__ = ["AuxiliaryHeadCIFAR", "AuxiliaryHeadImageNet", "DerivedCell", "DerivedNetwork", "auxiliary_head"]


Build = Callable[[str, int, int], nn.Module]


def _build_op(name: str, channels: int, stride: int) -> nn.Module:
    return build_op(name, channels, stride, affine=True, pool_bn=False)


class DerivedCell(StackedCell):
    """A discrete cell: each node sums the outputs of its operators; affine batch norm, none after pools.

    Args:
        genotype: the cell.
        c_prev_prev: channels of the input from two layers before.
        c_prev: channels of the input from the layer before.
        channels: C, of every state.
        reduction: whether edges from the two inputs have stride 2.
        reduction_prev: whether the layer before reduced.
        build: makes the operator of a name, for a number of channels and a stride.

    Source: Liu et al. 2019 (DARTS), section 2.4; docs/facts.md, 1.
    """

    def __init__(
        self,
        genotype: CellGenotype,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        *,
        reduction: bool,
        reduction_prev: bool,
        build: Build = _build_op,
    ) -> None:
        super().__init__()
        self.genotype, self.reduction, self.multiplier = genotype, reduction, len(genotype.concat)
        self.c_prev_prev, self.c_prev = c_prev_prev, c_prev
        if reduction_prev:
            self.preprocess0: nn.Module = FactorizedReduce(c_prev_prev, channels)
        else:
            self.preprocess0 = ReLUConvBN(c_prev_prev, channels, 1, 1, 0)
        self.preprocess1 = ReLUConvBN(c_prev, channels, 1, 1, 0)
        self._ops = nn.ModuleList(
            build(op, channels, 2 if reduction and source < genotype.inputs else 1)
            for op, source, _ in genotype.edges()
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_path_prob: float = 0.0) -> Tensor:
        """Run the cell.

        Args:
            s0: [N, c_prev_prev, H0, W0], floating; output of two layers before.
            s1: [N, c_prev, H, W], floating; output of the layer before.
            drop_path_prob: probability that a path of an image is dropped, in training only, never on an identity.

        Returns:
            [N, C * multiplier, H', W'], H' = ceil(H / 2) in a reduction, else H.
        """
        check_maps(s0, self.c_prev_prev, "DerivedCell")
        check_maps(s1, self.c_prev, "DerivedCell")
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        ops = iter(self._ops)
        for pairs in self.genotype.nodes:
            terms = [self._path(next(ops), states[source], drop_path_prob) for _, source in pairs]
            states.append(reference.weighted_sum(terms))
        return torch.cat([states[node] for node in self.genotype.concat], dim=1)

    def _path(self, op: nn.Module, state: Tensor, drop_path_prob: float) -> Tensor:
        out = op(state)
        if self.training and not isinstance(op, Identity):
            out = reference.drop_path(out, drop_path_prob)
        return out


class _PoolTo2x2(nn.Module):
    """The 5x5 average pool where it gives 2x2, as the papers' image sizes do, else adaptive pooling to 2x2."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if all((size - 5) // self.stride == 1 for size in x.shape[2:]):
            return F.avg_pool2d(x, 5, self.stride, count_include_pad=False)
        return F.adaptive_avg_pool2d(x, 2)


class _AuxiliaryHead(nn.Module):
    def __init__(self, channels: int, classes: int, *, pool_stride: int, last: nn.Module | None) -> None:
        super().__init__()
        # Not in place as the peer's first ReLU is: that would rectify the cell's output for the classifier too.
        self.features = nn.Sequential(
            nn.ReLU(),
            _PoolTo2x2(pool_stride),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 768, 2, bias=False),
            *([] if last is None else [last]),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(768, classes)
        self.least_batch = 1 if last is None else 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to logits [N, classes]."""
        if self.training and len(x) < self.least_batch:
            raise UserError(
                f"{type(self).__name__}: a batch of {len(x)} in training",
                f"at least {self.least_batch}, since its last map is 1x1 and batch norm needs two values a channel",
            )
        return self.classifier(self.features(x).flatten(1))


class AuxiliaryHeadCIFAR(_AuxiliaryHead):
    """The second classifier of the CIFAR network, on maps of 8x8 there; other sizes are pooled to 2x2.

    Args:
        channels: of the input.
        classes: number of classes.

    Source: Liu et al. 2019 (DARTS), section 3.2; quark0/darts for its layers.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, pool_stride=3, last=nn.BatchNorm2d(768))


class AuxiliaryHeadImageNet(_AuxiliaryHead):
    """The second classifier of the ImageNet network, on maps of 7x7 there; no batch norm at its end.

    Args:
        channels: of the input.
        classes: number of classes.

    Source: Liu et al. 2019 (DARTS), section 3.3; quark0/darts for its layers.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, pool_stride=2, last=None)


def auxiliary_head(stem: str, channels: int, classes: int) -> nn.Module:
    """The auxiliary head of networks with a stem, `cifar` or `imagenet`."""
    return (AuxiliaryHeadImageNet if stem == "imagenet" else AuxiliaryHeadCIFAR)(channels, classes)


class DerivedNetwork(Trunk):
    """The network of a genotype, with the `state_dict` keys of quark0's NetworkCIFAR and NetworkImageNet.

    Args:
        genotype: a convolutional genotype, of shared cells (normal, reduce) or of one cell a layer (cell0, cell1, ...).
        channels: C of the first cell.
        layers: number of cells; a genotype of one cell a layer brings its own number, and this one is not read.
        classes: number of classes.
        in_channels: channels of the images.
        auxiliary: whether there is an auxiliary head after cell 2 * layers // 3.
        stem: `cifar` (3 * channels channels) or `imagenet` (channels channels).
        build: makes the operator of a name, for a number of channels and a stride.

    Attributes:
        drop_path_prob: probability that a path of an image is dropped in training; set it between epochs.

    Raises:
        UserError: a recurrent or NAS-Bench-201 genotype, a count below 1, an unknown stem.
        TypeError: no genotype.

    Source: Liu et al. 2019 (DARTS), sections 3.2 and 3.3; docs/facts.md, 1.1.
    """

    def __init__(
        self,
        genotype: Genotype,
        *,
        channels: int,
        layers: int | None = None,
        classes: int,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem: str = "cifar",
        build: Build = _build_op,
    ) -> None:
        layers = _depth(genotype, layers)
        check_trunk(channels=channels, layers=layers, classes=classes, in_channels=in_channels, stem=stem)
        reductions = (layers // 3, 2 * layers // 3)

        def build_cell(place: Place) -> DerivedCell:
            shared = "reduce" if place.reduction else "normal"
            return DerivedCell(
                genotype.cell(shared if genotype.layers is None else f"cell{place.layer}"),
                place.c_prev_prev,
                place.c_prev,
                place.channels,
                reduction=place.reduction,
                reduction_prev=place.reduction_prev,
                build=build,
            )

        super().__init__(
            build_cell,
            channels=channels,
            layers=layers,
            reductions=reductions,
            classes=classes,
            in_channels=in_channels,
            stem=stem,
            stem_channels=channels if stem == "imagenet" else 3 * channels,
            build_auxiliary=(lambda c_prev: auxiliary_head(stem, c_prev, classes)) if auxiliary else None,
        )
        self.genotype, self.auxiliary = genotype, auxiliary
        self.drop_path_prob = 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Classify.

        Args:
            x: [N, in_channels, H, W], floating.

        Returns:
            Logits [N, classes], and the auxiliary head's in training, None in evaluation or without a head.

        Raises:
            UserError: a wrong shape, an empty batch, or too few values for batch norm to train on.
            TypeError: no tensor, or no floating dtype.
        """
        logits_aux = None
        older, newer = self.begin(x)
        for layer, cell in enumerate(self.cells):
            older, newer = newer, cell(older, newer, self.drop_path_prob)
            if self.auxiliary and self.training and layer == 2 * self.layers // 3:
                logits_aux = self.auxiliary_head(newer)
        return self.classify(newer), logits_aux


def _depth(genotype: Genotype, layers: int | None) -> int:
    if not isinstance(genotype, Genotype):
        raise TypeError(f"genotype is a {type(genotype).__name__}; expected fastdarts.spaces.Genotype")
    if genotype.layers is not None:
        return genotype.layers
    if genotype.keys != ("normal", "reduce"):
        raise UserError(
            f"a genotype of the cells {', '.join(genotype.keys)}",
            "cells normal and reduce, or cell0, cell1, ...",
            "a derived network stacks convolutional cells with two inputs",
        )
    if layers is None:
        raise UserError("layers is not given", "a number of cells, which this genotype leaves open", "20 in the papers")
    return layers
