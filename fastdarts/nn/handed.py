"""What the engine is handed: noise, and the maps of the candidates that are called as the modules they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn.operations import channels_first
from fastdarts.nn.route import Route

__all__ = ["handed_in"]


def handed_in(owner: str, route: Route, edges: Sequence[nn.Module], states: Sequence[Tensor]) -> list[Tensor]:
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
    plan, found, x = route.plan, [], states[0]
    shape = (x.shape[0], plan.mixed, *(-(-size // plan.stride) for size in x.shape[2:]))
    inputs: dict[int, Tensor] = {}
    for number, column, kind in route.handed:
        if kind == "noise":
            # In the layout of the reference, whose values these are.
            drawn = torch.empty(shape, dtype=x.dtype, device=x.device).normal_()
            found.append(drawn.contiguous(memory_format=torch.channels_last))
            continue
        edge = plan.edges[number]
        if edge.source not in inputs:
            inputs[edge.source] = channels_first(states[edge.source][:, : plan.mixed])
        op = edges[number]._ops[column]  # type: ignore[index, union-attr]
        found.append(
            _called(
                op, inputs[edge.source], shape, f"{owner}: {type(op).__name__}, candidate {column} of edge {number},"
            )
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
