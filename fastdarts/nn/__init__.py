"""Layers of the search: mixed operations, cells, supernets, and the networks derived from them."""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
from fastdarts.nn.cell import Cell
from fastdarts.nn.derived import AuxiliaryHeadCIFAR, AuxiliaryHeadImageNet, DerivedCell, DerivedNetwork
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import (
    Conv7x1,
    DilConv,
    FactorizedReduce,
    Identity,
    Noise,
    ReLUConvBN,
    SepConv,
    Zero,
    build_op,
)
from fastdarts.nn.primitives import import_primitives, register_primitive
from fastdarts.nn.supernet import Architecture, Supernet

__all__ = [
    "Architecture",
    "AuxiliaryHeadCIFAR",
    "AuxiliaryHeadImageNet",
    "Cell",
    "Conv7x1",
    "DerivedCell",
    "DerivedNetwork",
    "DilConv",
    "FactorizedReduce",
    "Identity",
    "MixedOp",
    "Noise",
    "ReLUConvBN",
    "SepConv",
    "Supernet",
    "Zero",
    "build_op",
    "import_primitives",
    "register_primitive",
]


# Importable from here as before, but no promise: what the networks are stacked from.
_BEFORE = {
    "Place": "trunk",
    "StackedCell": "trunk",
    "Trunk": "trunk",
}


def __getattr__(name: str) -> Any:
    return moved(__name__, _BEFORE, name)
