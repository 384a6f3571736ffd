"""The candidates' weights and statistics in a few tensors instead of hundreds, under the peers' `state_dict` keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Stack", "StackedConv2d", "StackedNorm", "StackedPart"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class StackedPart(NamedTuple):
    """Where in a stack something stands.

    Args:
        stack: the stack.
        place: of an edge, of a convolution or of a batch norm among the stack's.
    """

    stack: Stack
    place: int


class _Kernel(NamedTuple):
    source: int
    start: int
    shape: tuple[int, ...]


class Stack(nn.Module):
    """What the edges of a cell learn: one parameter per source, one buffer per statistic.

    `source_<s>` [elements] holds the convolutions of all candidates on the edges out of source s, edge by edge and
    candidate by candidate; `running_mean` and `running_var` [B, C'] and `num_batches_tracked` [B] hold a row for each
    batch norm, edge by edge: both in the order of :class:`fastdarts.plan.CellPlan`. The candidates' modules stay, with
    views of these as their `weight`, `running_mean` and so on, and they, not the stack, make up the `state_dict`: under
    the peers' keys. A `state_dict` may name the stack's own tensors too (code that copies `named_parameters()` into
    it does); those then win.

    Args:
        edges: the candidates of each edge, with values of their own or those of another stack.
        sources: the source of each edge.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, edges: Sequence[Iterable[nn.Module]], sources: Sequence[int]) -> None:
        super().__init__()
        modules = [[list(op.modules()) for op in ops] for ops in edges]
        convs = [[[m for m in op if isinstance(m, nn.Conv2d)] for op in ops] for ops in modules]
        norms = [m for ops in modules for op in ops for m in op if isinstance(m, nn.BatchNorm2d)]
        weights: dict[int, list[Tensor]] = {source: [] for source in sorted(set(sources))}
        filled = dict.fromkeys(weights, 0)
        self._edges: list[list[list[_Kernel]]] = []
        self._norms: list[slice] = []
        for ops, source in zip(convs, sources, strict=True):
            self._edges.append([])
            for layers in ops:
                kernels = []
                for conv in layers:
                    kernels.append(_Kernel(source, filled[source], tuple(conv.weight.shape)))
                    weights[source].append(conv.weight.detach().flatten())
                    filled[source] += conv.weight.numel()
                self._edges[-1].append(kernels)
        for edge in modules:
            first = self._norms[-1].stop if self._norms else 0
            count = sum(isinstance(m, nn.BatchNorm2d) for op in edge for m in op)
            self._norms.append(slice(first, first + count))
        statistics = {name: [getattr(norm, name) for norm in norms] for name in _STATISTICS}
        for source, values in weights.items():
            if values:
                self.register_parameter(f"source_{source}", nn.Parameter(torch.cat(values)))
        for name, rows in statistics.items():
            self.register_buffer(name, torch.stack(rows) if rows else None)
        self._kernels = [kernel for ops in self._edges for kernels in ops for kernel in kernels]
        for index, conv in enumerate(conv for ops in convs for op in ops for conv in op):
            _give_up(conv, StackedConv2d, ("weight",), StackedPart(self, index))
        for index, norm in enumerate(norms):
            _give_up(norm, StackedNorm, _STATISTICS, StackedPart(self, index))

    def edge(self, index: int) -> list[list[Tensor]]:
        """The convolutions' weights of each candidate of an edge, as views made by one split."""
        kernels = [kernel for op in self._edges[index] for kernel in op]
        if not kernels:
            return [[] for _ in self._edges[index]]
        sizes = [prod(kernel.shape) for kernel in kernels]
        flat = self._source(kernels[0].source).narrow(0, kernels[0].start, sum(sizes))
        pieces = iter(flat.split(sizes))
        return [[next(pieces).view(kernel.shape) for kernel in op] for op in self._edges[index]]

    def kernels(self, chosen: Sequence[int] | None = None) -> list[Tensor]:
        """The weights of convolutions, as views made by one split a source.

        Args:
            chosen: which convolutions, rising; None for all.
        """
        wanted = self._kernels if chosen is None else [self._kernels[index] for index in chosen]
        # What lies between two that are wanted is one piece: a path has a dozen of a hundred.
        sizes: dict[int, list[int]] = {}
        filled: dict[int, int] = {}
        for source, start, shape in wanted:
            pieces, size = sizes.setdefault(source, []), prod(shape)
            pieces += [start - filled.get(source, 0), size]
            filled[source] = start + size
        views = {}
        for source, pieces in sizes.items():
            weight = self._source(source)
            views[source] = iter(weight.split([*pieces, weight.numel() - filled[source]])[1::2])
        return [next(views[source]).view(shape) for source, _, shape in wanted]

    def statistics(self, edge: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Running means and variances [B, C'] and counted batches [B] of one edge or of all, to write in place."""
        mean, var, tracked = self.running_mean, self.running_var, self.num_batches_tracked
        if edge is None:
            return mean, var, tracked
        rows = self._norms[edge]
        return mean[rows], var[rows], tracked[rows]

    def kernel(self, index: int) -> Tensor:
        """The weight of one convolution, a view."""
        source, start, shape = self._kernels[index]
        return self._source(source).narrow(0, start, prod(shape)).view(shape)

    def follow(self, given: Tensor, name: str) -> None:
        """Take over the dtype and device of a tensor that `load_state_dict(assign=True)` puts in place."""
        own = getattr(self, name)
        if own.is_meta and not given.is_meta:
            # What the checkpoint lacks must not look like a value.
            fill = torch.nan if given.is_floating_point() else 0
            new = torch.full(own.shape, fill, dtype=given.dtype, device=given.device)
        else:
            new = own.detach().to(given)
        if isinstance(own, nn.Parameter):
            setattr(self, name, nn.Parameter(new, own.requires_grad))
        else:
            setattr(self, name, new)

    def name(self, index: int) -> str:
        """The parameter that holds a convolution."""
        return f"source_{self._kernels[index].source}"

    def _source(self, source: int) -> Tensor:
        weight: Tensor = getattr(self, f"source_{source}")
        return weight

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Nothing: the candidates save their own."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # The candidates have loaded before; that the stack's own names are absent is the rule.
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, [], unexpected_keys, error_msgs)


class _Stacked(nn.Module):
    """A layer whose tensors are views of a stack's."""

    _names: tuple[str, ...]
    _part: StackedPart

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in self._names:
            value = getattr(self, name)
            destination[prefix + name] = value if keep_vars else value.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if local_metadata.get("assign_to_params_buffers"):
            local_metadata = {**local_metadata, "assign_to_params_buffers": False}
            for name in self._names:
                given = state_dict.get(prefix + name)
                if isinstance(given, Tensor):
                    self._part.stack.follow(given, self._home(name))
        # While it loads the layer has its tensors as any other: what is missing, unexpected or misshapen is said so.
        self._buffers.update({name: getattr(self, name).detach() for name in self._names})
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        finally:
            for name in self._names:
                del self._buffers[name]

    def _home(self, name: str) -> str:
        raise NotImplementedError


class StackedConv2d(_Stacked, nn.Conv2d):
    """A convolution whose weight is a view of a stack."""

    _names = ("weight",)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[C_out, C_in / groups, k, k]; gradients reach the stack's parameter."""
        return self._part.stack.kernel(self._part.place)

    def _home(self, name: str) -> str:
        return self._part.stack.name(self._part.place)


class StackedNorm(_Stacked, nn.BatchNorm2d):
    """A batch norm whose running statistics are rows of a stack."""

    _names = _STATISTICS

    @property
    def running_mean(self) -> Tensor:  # type: ignore[override]
        """[C'], written in place."""
        return self._part.stack.running_mean[self._part.place]

    @property
    def running_var(self) -> Tensor:  # type: ignore[override]
        """[C'], written in place."""
        return self._part.stack.running_var[self._part.place]

    @property
    def num_batches_tracked(self) -> Tensor:  # type: ignore[override]
        """A scalar, int64, written in place."""
        return self._part.stack.num_batches_tracked[self._part.place]

    def _home(self, name: str) -> str:
        return name


def _give_up(layer: nn.Module, stacked: type[_Stacked], names: tuple[str, ...], part: StackedPart) -> None:
    """Make a layer read its tensors from a stack; its class changes, as under `torch.nn.utils.parametrize`."""
    for name in names:
        layer._parameters.pop(name, None)
        layer._buffers.pop(name, None)
    layer.__class__ = stacked
    object.__setattr__(layer, "_part", part)
