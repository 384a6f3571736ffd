"""Operators of one's own as primitives: what spaces and genotypes may name, and what is built of the name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from torch import nn

from fastdarts.errors import UserError
from fastdarts.spaces import add_primitive

__all__ = ["OWN", "import_primitives", "register_primitive"]

Build = Callable[[int, int, bool], nn.Module]

OWN: dict[str, Build] = {}
"""What was registered, by name."""

_VARIABLE = "FASTDARTS_IMPORT"


def register_primitive(name: str, build: Build) -> None:
    """Make an operator of one's own a primitive: spaces and genotypes may name it, and the command line's too.

    Where it is a candidate it is called as the module that it is, in plain torch; the rest of its cell stays fused.

    Args:
        name: an identifier that no primitive of fastdarts has; one's own may be registered anew.
        build: called as `build(channels, stride, affine)`; gives a module from [N, C, H, W] to
            [N, C, ceil(H / stride), ceil(W / stride)]. Batch norms have a weight and a bias where `affine`: in derived
            networks, not in the search.

    Raises:
        UserError: a name that is taken, or none.
        TypeError: nothing to call.
    """
    if not callable(build):
        raise TypeError(f"build is a {type(build).__name__}; expected a function of channels, stride and affine")
    add_primitive(name)
    OWN[name] = build


def import_primitives() -> None:
    """Import the modules that `FASTDARTS_IMPORT` names, comma-separated, from the working directory too.

    The command line and the processes of its jobs do so before anything else: such a module registers primitives.

    Raises:
        UserError: there is no such module.
    """
    named = [name for name in os.environ.get(_VARIABLE, "").split(",") if name]
    if named and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in named:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
            where = f"a module in {os.getcwd()} or installed"
            raise UserError(f"{_VARIABLE} names {name!r}, and there is no such module", where) from error
