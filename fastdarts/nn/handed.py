"""What the engine is handed: noise, and the maps of the candidates that are called as the modules they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn.operations import channels_first
from fastdarts.nn.route import Route

__all__ = ["handed_in"]


def handed_in(owner: str, route: Route, edges: Any, states: Sequence[Tensor]) -> list[Tensor]:
    """Draw and call in the order of the peers' loop, edge by edge: one seed gives one noise, one dropout.

    Args:
        owner: name of the layer in messages.
        route: what runs.
        edges: mixed operations.
        states: [N, C, H, W] each, the inputs first; as many as are ready.

    Returns:
        [N, C / partial, H', W'] for each candidate that the route lists as handed in.

    Raises:
        UserError: a module that gives another shape, or writes into its input.
    """
    x, found = states[0], []
    shape = (x.shape[0], route.mixed, *(-(-size // route.stride) for size in x.shape[2:]))
    inputs: dict[int, Tensor] = {}
    for edge, column, source, module in route.handed:
        if not module:
            # In the layout of the reference, whose values these are.
            drawn = torch.empty(shape, dtype=x.dtype, device=x.device).normal_()
            found.append(drawn.contiguous(memory_format=torch.channels_last))
            continue
        if source not in inputs:
            inputs[source] = channels_first(states[source][:, : route.mixed])
        op = edges[edge]._ops[column]
        found.append(
            _called(op, inputs[source], shape, f"{owner}: {type(op).__name__}, candidate {column} of edge {edge},")
        )
    return found


def _called(op: Callable[[Tensor], Tensor], x: Tensor, shape: tuple[int, ...], who: str) -> Tensor:
    counted = not torch.compiler.is_compiling() and not x.is_inference()
    before = x._version if counted else 0
    y = op(x)
    if counted and x._version != before:
        what = f"{who} writes into its input, which other candidates read"
        raise UserError(
            what, "a module that leaves it as it is", "make its first layer inplace=False, or use_backend('reference')"
        )
    if not isinstance(y, Tensor) or y.shape != shape:
        got = list(y.shape) if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise UserError(f"{who} gives {got}", f"a map of shape {list(shape)}")
    return y
