"""The candidates' weights and statistics in a few tensors instead of hundreds, under the peers' `state_dict` keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError

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
    it does); those then win. A layer that is given a tensor of its own leaves the stack, whose place is then unread.

    Args:
        edges: the candidates of each edge, with values of their own or those of another stack.
        sources: the source of each edge.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, edges: Sequence[Iterable[nn.Module]], sources: Sequence[int]) -> None:
        super().__init__()
        modules: list[list[list[Any]]] = [[list(op.modules()) for op in ops] for ops in edges]
        convs = [[[m for m in op if type(m) in (nn.Conv2d, StackedConv2d)] for op in ops] for ops in modules]
        norms = [m for ops in modules for op in ops for m in op if type(m) in (nn.BatchNorm2d, StackedNorm)]
        self._kernels: list[_Kernel] = []
        self._of_edges: list[range] = []
        weights: dict[int, list[Tensor]] = {source: [] for source in sorted(set(sources))}
        filled = dict.fromkeys(weights, 0)
        # While plain torch runs, the weights of all convolutions by their places, cut at once; else empty.
        self._cut: dict[int, Tensor] = {}
        for ops, source in zip(convs, sources, strict=True):
            for conv in (conv for layers in ops for conv in layers):
                self._kernels.append(_Kernel(source, filled[source], tuple(conv.weight.shape)))
                weights[source].append(conv.weight.detach().flatten())
                filled[source] += conv.weight.numel()
            first = self._of_edges[-1].stop if self._of_edges else 0
            self._of_edges.append(range(first, len(self._kernels)))
        statistics = {name: [getattr(norm, name) for norm in norms] for name in _STATISTICS}
        for source, values in weights.items():
            if values:
                self.register_parameter(f"source_{source}", nn.Parameter(torch.cat(values)))
        for name, rows in statistics.items():
            self.register_buffer(name, torch.stack(rows) if rows else None)
        for index, conv in enumerate(conv for ops in convs for op in ops for conv in op):
            _give_up(conv, StackedConv2d, ("weight",), StackedPart(self, index))
        for index, norm in enumerate(norms):
            _give_up(norm, StackedNorm, _STATISTICS, StackedPart(self, index))

    @contextmanager
    def cut(self, edge: int | None = None) -> Iterator[None]:
        """A block in which the modules of one edge, or of all, share one split a source when they read their weights.

        Each would else be a view of its own, whose gradient autograd makes as large as the whole source.
        """
        places = range(len(self._kernels)) if edge is None else self._of_edges[edge]
        if self._cut or not places or torch.compiler.is_compiling():
            yield
            return
        self._cut = dict(zip(places, self.kernels(places), strict=True))
        try:
            yield
        finally:
            self._cut = {}

    def kernels(self, chosen: Sequence[int]) -> list[Tensor]:
        """The weights of convolutions, as views made by one split a source.

        Args:
            chosen: which convolutions.
        """
        if any(after <= before for before, after in pairwise(chosen)):  # someone has changed the candidates' order
            return [self.kernel(index) for index in chosen]
        wanted = [self._kernels[index] for index in chosen]
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

    def pieces(self, chosen: Sequence[int]) -> tuple[list[Tensor], list[int]]:
        """The sources in which the weights of convolutions lie, and for each which one and its first element there.

        Args:
            chosen: which convolutions.
        """
        sources: dict[int, int] = {}
        places = []
        for index in chosen:
            source, start, _ = self._kernels[index]
            places += [sources.setdefault(source, len(sources)), start]
        return list(map(self._source, sources)), places

    def kernel(self, index: int) -> Tensor:
        """The weight of one convolution, a view."""
        if index in self._cut:
            return self._cut[index]
        source, start, shape = self._kernels[index]
        return self._source(source).narrow(0, start, prod(shape)).view(shape)

    def gradient(self, index: int) -> Tensor | None:
        """The gradient of one convolution's weight, a view; None where its source has none."""
        source, start, shape = self._kernels[index]
        whole = self._source(source).grad
        return None if whole is None else whole.narrow(0, start, prod(shape)).view(shape)

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

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._names:
            own = getattr(self, name)
            if isinstance(value, Tensor) and (value.data_ptr(), value.shape) == (own.data_ptr(), own.shape):
                return  # `layer.name += 1` has written in place already
            self._leave()
        nn.Module.__setattr__(self, name, value)

    def _leave(self) -> None:
        """Keep tensors of its own from now on, as the layer that it was before."""
        kept = {name: getattr(self, name).detach().clone() for name in self._names}
        learns = getattr(self._part.stack, self._home(self._names[0])).requires_grad
        self.__class__ = type(self).__mro__[2]
        del self.__dict__["_part"]
        for name, value in kept.items():
            if name == "weight":
                self._parameters[name] = nn.Parameter(value, learns)
            else:
                self._buffers[name] = value

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name in self._names:
            value = getattr(self, name)
            destination[prefix + name] = value if keep_vars else value.detach()
        super()._save_to_state_dict(destination, prefix, keep_vars)

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


class _Piece(Tensor):
    """A weight that is a part of a stack: `weight.data = values` writes them there."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """The weight without its history."""
        return self.detach().as_subclass(Tensor)

    @data.setter
    def data(self, values: Tensor) -> None:
        if values.shape != self.shape:
            what = f"a weight of shape {list(self.shape)} is set to one of shape {list(values.shape)}"
            raise UserError(what, "the same shape", "set the layer's weight to a new nn.Parameter")
        with torch.no_grad():
            self.copy_(values)


class StackedConv2d(_Stacked, nn.Conv2d):
    """A convolution whose weight is a view of a stack."""

    _names = ("weight",)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[C_out, C_in / groups, k, k]; gradients reach the stack's parameter."""
        weight = self._part.stack.kernel(self._part.place)
        return weight if torch.compiler.is_compiling() else weight.as_subclass(_Piece)

    def _home(self, name: str) -> str:
        return self._part.stack.name(self._part.place)


class StackedNorm(_Stacked, nn.BatchNorm2d):
    """A batch norm whose running statistics are rows of a stack."""

    _names = _STATISTICS

    @property
    def running_mean(self) -> Tensor:  # type: ignore[override]
        """[C'], written in place."""
        return self._row("running_mean")

    @property
    def running_var(self) -> Tensor:  # type: ignore[override]
        """[C'], written in place."""
        return self._row("running_var")

    @property
    def num_batches_tracked(self) -> Tensor:  # type: ignore[override]
        """A scalar, int64, written in place."""
        return self._row("num_batches_tracked")

    def _row(self, name: str) -> Tensor:
        # `data` counts its changes apart: a batch norm that runs as a module saves its row for backward, and the engine
        # moves the other rows before that.
        statistics: Tensor = getattr(self._part.stack, name)
        return statistics.data[self._part.place]

    def _home(self, name: str) -> str:
        return name


def _give_up(layer: nn.Module, stacked: type[_Stacked], names: tuple[str, ...], part: StackedPart) -> None:
    """Make a layer read its tensors from a stack; its class changes, as under `torch.nn.utils.parametrize`."""
    for name in names:
        layer._parameters.pop(name, None)
        layer._buffers.pop(name, None)
    layer.__class__ = stacked
    object.__setattr__(layer, "_part", part)
