"""Primitives as data: the operators that an edge can carry, by their names in the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fastdarts.errors import UserError

__all__ = ["PRIMITIVES", "Primitive", "add_primitive"]


@dataclass(frozen=True)
class Primitive:
    """One operator by name, without weights or code.

    Args:
        name: the field's own name, as quark0/darts writes it.
        family: none, skip, pool, sep_conv, dil_conv, conv, noise, own, or activation (recurrent cells only).
        kernel: side of the window in pixels; 1 where there is none.
        dilation: distance in pixels between neighbouring taps of the window; `_d3` in a name says 3.
    """

    name: str
    family: str
    kernel: int = 1
    dilation: int = 1

    @property
    def parameter_free(self) -> bool:
        """Whether the operator has no weights at stride 1 (a skip at stride 2 is a factorised reduction)."""
        return self.family in ("none", "skip", "pool", "noise", "activation")


_TABLE = (
    Primitive("none", "none"),
    Primitive("max_pool_3x3", "pool", 3),
    Primitive("avg_pool_3x3", "pool", 3),
    Primitive("max_pool_5x5", "pool", 5),
    Primitive("avg_pool_5x5", "pool", 5),
    Primitive("skip_connect", "skip"),
    Primitive("sep_conv_3x3", "sep_conv", 3),
    Primitive("sep_conv_5x5", "sep_conv", 5),
    Primitive("sep_conv_7x7", "sep_conv", 7),
    Primitive("dil_conv_3x3", "dil_conv", 3, 2),
    Primitive("dil_conv_5x5", "dil_conv", 5, 2),
    Primitive("dil_conv_7x7", "dil_conv", 7, 2),
    Primitive("dil_conv_3x3_d3", "dil_conv", 3, 3),
    Primitive("dil_conv_5x5_d3", "dil_conv", 5, 3),
    Primitive("dil_conv_7x7_d3", "dil_conv", 7, 3),
    Primitive("conv_7x1_1x7", "conv", 7),
    Primitive("conv_3x1_1x3", "conv", 3),
    Primitive("noise", "noise"),
    Primitive("nor_conv_1x1", "conv", 1),
    Primitive("nor_conv_3x3", "conv", 3),
    Primitive("tanh", "activation"),
    Primitive("relu", "activation"),
    Primitive("sigmoid", "activation"),
    Primitive("identity", "activation"),
    Primitive("selu", "activation"),
)

_KNOWN = {primitive.name: primitive for primitive in _TABLE}

PRIMITIVES: Mapping[str, Primitive] = MappingProxyType(_KNOWN)
"""Every known primitive by name: docs/facts.md, 1, 2, 5 (NAS-Bench-201's nor_conv) and 6 (noise), and one's own."""


def add_primitive(name: str) -> None:
    """Let spaces and genotypes name an operator of one's own; :func:`fastdarts.nn.register_primitive` says what it is.

    Raises:
        UserError: a name that is no identifier, or one of fastdarts' own.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"a primitive named {name!r}", "an identifier, as sep_conv_3x3")
    if _KNOWN.get(name, _OWN).family != "own":
        raise UserError(f"{name} is a primitive of fastdarts", "another name")
    _KNOWN[name] = Primitive(name, "own")


_OWN = Primitive("", "own")
