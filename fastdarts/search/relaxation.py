"""Relaxations: from alphas to the mixing weights of a forward pass."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fastdarts.nn import Supernet

__all__ = ["Relaxation", "softmax"]


class Relaxation(Protocol):
    """Chooses what a forward pass of the supernet mixes.

    Returns the keyword arguments of :meth:`fastdarts.nn.Supernet.forward`: ``weights``, ``edge_weights`` and,
    where only some operators run, ``active``. It is called anew for every pass, so a sampling relaxation draws
    here; ``progress`` runs from 0 to 1 over the search, for temperatures: a float on the CPU, on a GPU a scalar tensor
    that a CUDA graph reads anew at each step. One that looks at values on the host to decide what runs has an
    attribute ``asks_host = True``, one that draws random numbers ``draws = True``: docs/graph.md.
    """

    def __call__(self, model: Supernet, progress: float | Tensor) -> dict[str, dict[str, Tensor] | None]:
        """Return the arguments of one forward pass."""
        ...


def softmax(model: Supernet, progress: float | Tensor) -> dict[str, dict[str, Tensor] | None]:
    """Softmax over the operators of each edge (DARTS, Eq. 2), and over the edges of a node where edges have
    weights (PC-DARTS, Eq. 4)."""
    return {"weights": model.mixing_weights(), "edge_weights": model.edge_weights()}
