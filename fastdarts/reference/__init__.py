"""Every operation of the engine in plain torch: any device, any floating dtype, double backward; the oracle."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
from fastdarts.reference.augment import augment
from fastdarts.reference.batch_norm import batch_norm
from fastdarts.reference.convolution import conv_7x1_1x7, dil_conv, relu_conv_bn, sep_conv
from fastdarts.reference.drop_path import drop_path
from fastdarts.reference.factorised_reduce import factorised_reduce
from fastdarts.reference.mixed_sum import mixed_sum, weighted_sum
from fastdarts.reference.parameter_free import avg_pool, max_pool, noise, zero
from fastdarts.reference.partial_channels import channel_shuffle, partial_channels
from fastdarts.reference.relaxation import (
    concrete,
    edge_normalisation,
    gumbel,
    joint_softmax,
    mixing_weights,
    straight_through,
)

__all__ = [
    "augment",
    "avg_pool",
    "batch_norm",
    "channel_shuffle",
    "concrete",
    "conv_7x1_1x7",
    "dil_conv",
    "drop_path",
    "edge_normalisation",
    "factorised_reduce",
    "gumbel",
    "joint_softmax",
    "max_pool",
    "mixed_sum",
    "mixing_weights",
    "noise",
    "partial_channels",
    "relu_conv_bn",
    "sep_conv",
    "straight_through",
    "weighted_sum",
    "zero",
]


# Importable from here as before, but no promise: parts of the others. A renamed one has its new name.
_BEFORE = {
    "Norm": "batch_norm:NormFunction",
    "bypass": "partial_channels",
    "paired": "relaxation",
}


def __getattr__(name: str) -> Any:
    return moved(__name__, _BEFORE, name)
