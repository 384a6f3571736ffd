"""The way from the layers to the fused engine: whether a call can take it, what it hands over, what it brings back.

A call computes in plain torch instead where the backend in force is the reference, and where the engine would not do
the same: candidates without a kernel or replaced by others, forward hooks inside, batch norms set up differently from
each other, float16 on a CPU. The log says so, once for each reason.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn.operations import FactorizedReduce, ReLUConvBN
from fastdarts.nn.stack import Stack
from fastdarts.ops.cell import cell as fused_cell
from fastdarts.ops.cell import on_reference
from fastdarts.ops.maps import is_maps, keep_if_captured, stored_dtypes
from fastdarts.ops.preprocess import preprocess as fused_preprocess
from fastdarts.ops.track import track_
from fastdarts.plan import MEMORY, CellPlan, Norm, Parameter

__all__ = [
    "Engine",
    "Route",
    "as_laid_out",
    "cast_once",
    "check_memory",
    "constant",
    "hooked",
    "laid_out",
    "preprocess",
]

_LOG = logging.getLogger("fastdarts")


def check_memory(memory: str) -> None:
    """Refuse what is no memory mode."""
    if memory not in MEMORY:
        raise UserError(f"memory is {memory!r}", f"one of {', '.join(MEMORY)}")


@dataclass(frozen=True)
class Route:
    """What runs of the candidates that a stack holds.

    Args:
        plan: what runs.
        norms: number of its batch norms.
        noises: number of its noise candidates.
        kernels: which of the stack's convolutions these are, None for all.
        rows: which of its batch norms, None for all.
        read: for each edge which columns of the mixing weights are read; () where all of them are.
    """

    plan: CellPlan
    norms: int
    noises: int
    kernels: tuple[int, ...] | None
    rows: tuple[int, ...] | None
    read: tuple[tuple[bool, ...], ...]

    @classmethod
    def of(cls, chosen: CellPlan, whole: CellPlan) -> Route:
        """The way of a plan whose candidates are some of another's."""
        kernels, rows = (_places(chosen, whole, what) for what in ("parameters", "norms"))
        columns = [{candidate.column for candidate in edge.candidates} for edge in chosen.edges]
        read = tuple(tuple(column in each for column in range(whole.width)) for each in columns)
        return cls(
            chosen,
            len(chosen.norms),
            len(chosen.noises),
            None if len(kernels) == len(whole.parameters) else kernels,
            None if len(rows) == len(whole.norms) else rows,
            () if all(map(all, read)) else read,
        )


def _places(chosen: CellPlan, whole: CellPlan, what: str) -> tuple[int, ...]:
    """Where the convolutions or batch norms of a plan stand among those of the plan that it is a part of."""

    def named(plan: CellPlan) -> list[tuple[int, int, str]]:
        found: Sequence[Parameter] | Sequence[Norm] = getattr(plan, what)
        return [(each.edge, plan.edges[each.edge].candidates[each.position].column, each.name) for each in found]

    place = {name: index for index, name in enumerate(named(whole))}
    return tuple(place[name] for name in named(chosen))


class _Settings(NamedTuple):
    """How a batch norm behaves: `nn.BatchNorm2d`'s attributes, `batch` for whether it takes the batch's statistics."""

    batch: bool
    track: bool
    momentum: float | None
    eps: float


def _settings(norm: nn.BatchNorm2d) -> _Settings:
    batch = norm.training or norm.running_mean is None
    return _Settings(batch, norm.training and norm.track_running_stats, norm.momentum, norm.eps)


class Engine:
    """The fused engine for a mixed operation or a cell.

    Args:
        owner: its name in messages.
        stack: of its candidates' weights and statistics.
        edge: which of the stack's edges it is; None for all.
        edges: the candidates of each edge.
        build: makes the plan of all candidates.
        why: why the engine cannot run them; "" where it can.
    """

    def __init__(
        self,
        owner: str,
        stack: Stack,
        edge: int | None,
        edges: Iterable[Iterable[nn.Module]],
        build: Callable[[], CellPlan | None],
        why: str,
    ) -> None:
        self.owner, self.stack, self.edge, self.why = owner, stack, edge, why
        self.edges = [list(edge) for edge in edges]
        self.norms = [m for edge in self.edges for op in edge for m in op.modules() if isinstance(m, nn.BatchNorm2d)]
        try:
            self._whole = "" if why else _encoded(build())
        except UserError as error:
            self._whole, self.why = "", str(error)
        self._all = None if self.why else _route(self._whole, None)

    def route(self, active: tuple[tuple[int, ...], ...] | None) -> Route:
        """What runs where only some candidates do: for each edge their columns, None for all."""
        return self._all if active is None and self._all is not None else _route(self._whole, active)

    def refuses(self, x: Tensor, edges: Iterable[Iterable[nn.Module]], reason: str = "") -> bool:
        """Whether a call with this input must compute in plain torch.

        Args:
            x: [N, C, H, W].
            edges: the candidates of each edge as they are now.
            reason: what the caller has found already.
        """
        if on_reference(x.device.type):
            return True
        reason = reason or self.why or self._changed(edges)
        if not reason and _stored(x) not in stored_dtypes("cell", x.device.type):
            reason = f"no kernel for {str(_stored(x)).removeprefix('torch.')}"
        if reason:
            _tell(self.owner, reason)
        return bool(reason)

    def _changed(self, edges: Iterable[Iterable[nn.Module]]) -> str:
        for own, edge in zip(self.edges, edges, strict=True):
            now = list(edge)
            if len(now) != len(own) or any(a is not b for a, b in zip(own, now, strict=True)):
                return "candidates were replaced"
            if any(map(hooked, now)):
                return "candidates have hooks"
        if any(map(hooked, self.norms)):
            return "batch norms have hooks"
        if len({(norm.training, norm.track_running_stats, norm.momentum, norm.eps) for norm in self.norms}) > 1:
            return "batch norms differ in mode, momentum or eps"
        return ""

    def run(
        self,
        sources: list[Tensor],
        weights: Tensor,
        *,
        bypass: Tensor | None,
        route: Route,
        memory: str,
    ) -> Tensor:
        """Mix, and update the running statistics as `nn.BatchNorm2d` does.

        Args:
            sources: as :func:`fastdarts.ops.cell` takes them, so are weights and bypass.
            route: what runs.
        """
        stack, edge = self.stack, self.edge
        chosen = route.plan
        if edge is None:
            kernels = stack.kernels(route.kernels)
        else:
            kernels = [kernel for op in stack.edge(edge) for kernel in op]
            kernels = kernels if route.kernels is None else [kernels[index] for index in route.kernels]
        settings = _settings(self.norms[0]) if self.norms else None
        mean = var = rows = None
        if route.norms and settings is not None:
            if route.rows is not None:
                rows = constant(route.rows, sources[0].device)
            if not settings.batch:
                mean, var = (_rows(each, rows).flatten() for each in stack.statistics(edge)[:2])
        out, mean, var = fused_cell(
            sources,
            weights,
            kernels,
            chosen,
            bypass=bypass,
            noise=_noise(route, sources[0]),
            mean=mean,
            var=var,
            memory=memory,
            eps=1e-5 if settings is None else settings.eps,
        )
        if route.norms and settings is not None and settings.track:
            shape, count = (route.norms, chosen.mixed), out.numel() // out.shape[1]
            _track(stack.statistics(edge), (mean.view(shape), var.view(shape)), rows, settings.momentum, count)
        return out


def preprocess(module: nn.Module, x: Tensor, cast: Callable[[Tensor], Tensor]) -> Tensor:
    """What a cell's preprocessing module gives, by the engine where that does the same; `cast` is autocast's part."""
    x = cast(x)
    convs, norm, stride = _parts(module)
    if not convs or hooked(module) or type(norm) is not nn.BatchNorm2d or norm.affine:
        y: Tensor = module(x)
        return y
    settings = _settings(norm)
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    mean, var = (None, None) if settings.batch else running[:2]
    weights = [cast(conv.weight) for conv in convs]
    y, mean, var = fused_preprocess(x, weights, stride=stride, mean=mean, var=var, eps=settings.eps)
    own_mean, own_var, tracked = running
    if settings.track and own_mean is not None and own_var is not None and tracked is not None:
        _track((own_mean, own_var, tracked), (mean, var), None, settings.momentum, y.numel() // y.shape[1])
    return y


def _parts(module: nn.Module) -> tuple[list[nn.Conv2d], nn.Module | None, int]:
    """The pointwise convolutions, the batch norm and the stride of what the engine computes as preprocessing."""
    if type(module) is FactorizedReduce:
        return [conv for conv in (module.conv_1, module.conv_2) if conv is not None], module.bn, 2
    if type(module) is ReLUConvBN:
        _, conv, norm = module.op
        if isinstance(conv, nn.Conv2d) and (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (1, 1), (0, 0)):
            return [conv], norm, 1
    return [], None, 1


def hooked(module: nn.Module) -> bool:
    """Whether someone watches a module run."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@torch.no_grad()
def _track(
    running: Sequence[Tensor], batch: Sequence[Tensor], rows: Tensor | None, momentum: float | None, count: int
) -> None:
    """`running = (1 - m) * running + m * batch`, the variance unbiased; m = 1 / batches without a momentum.

    Args:
        running: mean and variance [B, C'] or [C'], batches [B] or [].
        batch: mean and biased variance, float64, of those that ran.
        rows: [B'], int64; which ones these are, None for all.
        momentum: m.
        count: values a channel, above 1.
    """
    unbiased = count / (count - 1)
    if rows is None and momentum is not None:
        track_(*running, *batch, momentum=momentum, unbiased=unbiased)
        return
    tracked = running[2]
    tracked += 1 if rows is None else torch.zeros_like(tracked).index_fill_(0, rows, 1)
    for own, new, factor in zip(running[:2], batch, (1.0, unbiased), strict=True):
        # In float64, and rounded once.
        before = _rows(own, rows).double()
        if momentum is None:
            moved = torch.lerp(before, new * factor, (1.0 / _rows(tracked, rows).double()).unsqueeze(-1))
        else:
            moved = torch.lerp(before, new * factor, momentum)
        if rows is None:
            own.copy_(moved)
        else:
            own.index_copy_(0, rows, moved.to(own.dtype))


def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Numbers on a device: made once, since a copy from the host in every step is what a CUDA graph cannot hold."""
    found = _constant(values, device)
    keep_if_captured(found, device)
    return found


# torch.compile takes the tensor as a constant: it cannot trace a cache.
@torch.compiler.assume_constant_result
@functools.lru_cache(maxsize=1024)
def _constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def _rows(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values.index_select(0, rows)


def _noise(route: Route, x: Tensor) -> list[Tensor]:
    # Drawn in the order and layout of the reference, so that one seed gives one noise.
    n, _, height, width = x.shape
    shape = (n, route.plan.mixed, -(-height // route.plan.stride), -(-width // route.plan.stride))
    drawn = [torch.empty(shape, dtype=x.dtype, device=x.device).normal_() for _ in range(route.noises)]
    return [each.contiguous(memory_format=torch.channels_last) for each in drawn]


def _device(x: Tensor) -> str:
    """Whose autocast x is under: tensors without data are taken as the CPU's."""
    return "cpu" if x.is_meta else x.device.type


def _casts(device: str) -> bool:
    return torch.is_autocast_enabled(device)


def _stored(x: Tensor) -> torch.dtype:
    """The dtype in which autocast would hand x to a convolution."""
    if not _casts(_device(x)) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(_device(x))


@contextmanager
def cast_once(x: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """A block in which autocast lets the engine's own arithmetic be; gives what casts inputs and weights instead."""
    if not _casts(_device(x)):
        yield lambda tensor: tensor
        return
    dtype = _stored(x)
    with torch.autocast(_device(x), enabled=False):
        yield lambda tensor: tensor.to(dtype)


def as_laid_out(y: Tensor, x: Tensor) -> Tensor:
    """y in the memory format of x."""
    return y if is_maps(x) and not x.is_contiguous() else y.contiguous()


def laid_out(x: Tensor) -> Tensor:
    """x in the memory format in which the cells exchange maps without copies: channels_last where the engine runs."""
    if (
        not isinstance(x, Tensor)
        or x.ndim != 4
        or on_reference(x.device.type)
        or (is_maps(x) and not x.is_contiguous())
    ):
        return x
    return x.contiguous(memory_format=torch.channels_last)


# torch.compile asks once and takes the answer as a constant: neither a cache nor a log can be traced.
@torch.compiler.assume_constant_result
@functools.lru_cache(maxsize=1024)
def _route(whole: str, active: tuple[tuple[int, ...], ...] | None) -> Route:
    every = CellPlan.decode(whole)
    if active is None:
        return Route.of(every, every)
    edges = tuple(
        replace(edge, candidates=tuple(edge.candidates[column] for column in sorted(chosen)))
        for edge, chosen in zip(every.edges, active, strict=True)
    )
    return Route.of(replace(every, edges=edges), every)


def _encoded(whole: CellPlan | None) -> str:
    if whole is None:
        raise UserError("no plan", "one wherever every primitive has a kernel")
    return whole.encode()


# A function of its own: torch.compile looks through a cache's mark, down to the log that it cannot trace.
@torch.compiler.assume_constant_result
def _tell(owner: str, reason: str) -> None:
    _say(owner, reason)


@functools.cache
def _say(owner: str, reason: str) -> None:
    _LOG.warning("%s: plain torch (%s)", owner, reason)
