"""Bytes that autograd keeps between forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["measure_kept_bytes"]


def measure_kept_bytes(forward: Callable[[], Tensor], given: Iterable[Tensor] = ()) -> int:
    """Bytes of all tensors that the graph of one forward pass keeps for the backward pass.

    Each storage counts once, however many operations keep it or a view of it; what exists without the pass
    (parameters, inputs) does not count. On the meta device nothing is allocated, so that a network far larger than
    the machine can be asked about.

    Args:
        forward: runs the pass, with gradients enabled, and returns its result.
        given: tensors that exist anyway, such as parameters, buffers and inputs.

    Returns:
        Bytes.

    Example:
        >>> with torch.device("meta"):
        ...     model, images = Supernet(space("darts")), torch.empty(64, 3, 32, 32)
        >>> measure_kept_bytes(lambda: model(images), model.parameters())      # 8.03 GB
    """
    outside = {_storage(tensor) for tensor in given}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in outside:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            # A storage that died would give its identity to another one.
            alive.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


kept_bytes = measure_kept_bytes  # the name of before
