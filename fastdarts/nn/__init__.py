"""Layers of the search: mixed operations, cells, supernets, and the networks derived from them."""

from __future__ import annotations

from fastdarts.nn.cell import Cell, MixedOp
from fastdarts.nn.derived import AuxiliaryHeadCIFAR, AuxiliaryHeadImageNet, DerivedCell, DerivedNetwork
from fastdarts.nn.operations import (
    AvgPool,
    Conv7x1,
    DilConv,
    FactorizedReduce,
    Identity,
    MaxPool,
    Noise,
    ReLUConvBN,
    SepConv,
    Zero,
    build_op,
)
from fastdarts.nn.supernet import Architecture, Supernet
from fastdarts.nn.trunk import Place, StackedCell, Trunk

__all__ = [
    "Architecture",
    "AuxiliaryHeadCIFAR",
    "AuxiliaryHeadImageNet",
    "AvgPool",
    "Cell",
    "Conv7x1",
    "DerivedCell",
    "DerivedNetwork",
    "DilConv",
    "FactorizedReduce",
    "Identity",
    "MaxPool",
    "MixedOp",
    "Noise",
    "Place",
    "ReLUConvBN",
    "SepConv",
    "StackedCell",
    "Supernet",
    "Trunk",
    "Zero",
    "build_op",
]
