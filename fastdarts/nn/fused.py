"""The way from the layers to the fused engine: what of a layer it can run, what it is handed, what it brings back.

Every call looks whether the candidates are what they were (:mod:`fastdarts.nn.watch`), and if not, what they are now
(:mod:`fastdarts.nn.known`). Those that the engine does not know are called as the modules they are, and their maps are
handed to it. All computes in plain torch where the backend in force is the reference, and where something outside the
layers makes every module another one: a global hook, torch's functions replaced, a tracer, float16 on a CPU. The log
says so, once for each reason.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn.casting import cast_once, stored
from fastdarts.nn.known import Known, elsewhere, preprocessing
from fastdarts.nn.operations import channels_first
from fastdarts.nn.route import Route
from fastdarts.nn.stack import Stack
from fastdarts.nn.statistics import chosen, kept, move, move_stacked
from fastdarts.nn.survey import Edges, Found, Frame, Place, Survey, look
from fastdarts.nn.watch import Settings, Watch
from fastdarts.ops.cell import cell as fused_cell
from fastdarts.ops.cell import on_reference
from fastdarts.ops.constant import constant_when_compiled
from fastdarts.ops.maps import keep_if_captured, stored_dtypes
from fastdarts.ops.preprocess import preprocess as fused_preprocess
from fastdarts.plan import MEMORY

__all__ = ["Engine", "Surveyed", "check_memory", "constant"]

_LOG = logging.getLogger("fastdarts")
_LAYERS: WeakValueDictionary[int, Surveyed] = WeakValueDictionary()
_NUMBERS = itertools.count()


def check_memory(memory: str) -> None:
    """Refuse what is no memory mode."""
    if memory not in MEMORY:
        raise UserError(f"memory is {memory!r}", f"one of {', '.join(MEMORY)}")


class Surveyed(nn.Module):
    """A layer of which the engine runs what it knows.

    `torch.compile` takes what is found as a constant, which it can ask for by a number only: a copy has its own.
    """

    _engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self._number = next(_NUMBERS)
        _LAYERS[self._number] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = next(_NUMBERS)
        _LAYERS[self._number] = self

    def edges(self) -> Edges:
        """The edges as they are now."""
        raise NotImplementedError

    def called(self) -> tuple[int, ...]:
        """The edges that are modules of their own now."""
        return ()


class Engine:
    """The fused engine for a mixed operation or a cell, and what it has found there; copies begin anew.

    Args:
        owner: its name in messages.
        frame: of the layer.
    """

    def __init__(self, owner: str, frame: Frame) -> None:
        self.owner, self.frame = owner, frame
        # Weak: the layer holds this engine, and its maps are to be freed with it, not by the garbage collector.
        self._layer: ReferenceType[Surveyed] | None = None
        self._found: Found | None = None
        self._before: dict[str, tuple[nn.Module, Known | None, Watch]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        return Engine(self.owner, self.frame)

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.owner, self.frame)

    def refuses(self, x: Tensor, reason: str = "") -> bool:
        """Whether a call with this input must compute in plain torch, whatever the candidates are.

        Args:
            x: [N, C, H, W].
            reason: what the caller has found already.
        """
        if on_reference(x.device.type):
            return True
        reason = reason or _outside()
        if not reason and stored(x) not in stored_dtypes("cell", x.device.type):
            reason = f"no kernel for {str(stored(x)).removeprefix('torch.')}"
        if reason:
            _tell(f"{self.owner}: plain torch ({reason})")
        return bool(reason)

    def survey(self, layer: Surveyed) -> Survey:
        """What of a layer, this engine's own, can be run."""
        found: Survey = _survey(layer._number) if torch.compiler.is_compiling() else self.found(layer).survey
        return found

    def found(self, layer: Surveyed) -> Found:
        """The same with the modules; it is looked for anew where anything has changed."""
        found = self._found
        if (
            found is None
            or self._layer is None
            or self._layer() is not layer
            or not found.stands()
            or (found.survey.called and layer.called() != found.survey.called)
        ):
            found = look(self.frame, layer.edges())
            self._layer, self._found = ref(layer), found
            for reason in sorted(found.survey.reasons):
                _tell(f"{self.owner}: candidates run in plain torch ({reason})")
        elif found.watch.settings != found.survey.settings:
            found = found._replace(survey=replace(found.survey, settings=found.watch.settings))
            self._found = found
        return found

    def run(
        self,
        edges: Any,
        stack: Stack | None,
        survey: Survey,
        sources: list[Tensor],
        weights: Tensor,
        *,
        bypass: Tensor | None,
        route: Route,
        memory: str,
        handed: Sequence[Tensor],
    ) -> Tensor:
        """Mix, and update the running statistics as `nn.BatchNorm2d` does.

        Args:
            edges: those of the layer, to which the survey's places refer.
            stack: of their weights and statistics; None where there is none.
            survey: of the layer.
            sources: as :func:`fastdarts.ops.cell` takes them, so are weights and bypass.
            route: what runs.
            handed: the maps of noise and of modules, as the route lists them.
        """
        settings = survey.settings if route.norms else None
        mean = var = None
        with cast_once(sources[0]) as cast:
            sources = [cast(x) for x in sources]
            if settings is not None and not settings.training:
                mean, var = self._running(edges, stack, survey, route)
            kernels, places = self._kernels(edges, stack, survey, route)
            out, mean, var = fused_cell(
                sources,
                weights,
                kernels,
                route.plan,
                places=places,
                bypass=bypass,
                noise=[cast(each).to(sources[0].dtype) for each in handed],
                mean=mean,
                var=var,
                memory=memory,
                eps=1e-5 if settings is None else settings.eps,
            )
            if settings is not None and settings.training and settings.track:
                batch = mean.view(route.norms, route.mixed), var.view(route.norms, route.mixed)
                count = out.numel() // out.shape[1]
                places = _some(survey.stacked_norms, route.rows)
                if places is None or stack is None:
                    move(kept(self._norms(edges, survey, route)), *batch, settings.momentum, count)
                else:
                    move_stacked(*_rows(stack, places), *batch, settings.momentum, count)
        return out

    def preprocess(self, layer: Surveyed, name: str, x: Tensor) -> Tensor:
        """What a cell's preprocessing module of that name gives, by the engine where it knows it."""
        module: nn.Module = getattr(layer, name)
        known = _preprocessing(layer._number, name) if torch.compiler.is_compiling() else self.before(layer, name)
        if known is None:
            y: Tensor = module(channels_first(x))
            return y
        convs, norm, settings = known
        weights = [_inside(module, conv).weight for conv in convs]
        statistics = _inside(module, norm)
        running = statistics.running_mean, statistics.running_var, statistics.num_batches_tracked
        mean, var = (None, None) if settings.training else running[:2]
        with cast_once(x) as cast:
            weights = [cast(weight) for weight in weights]
            stride = 2 if norm == "bn" else 1
            y, mean, var = fused_preprocess(cast(x), weights, stride=stride, mean=mean, var=var, eps=settings.eps)
            if settings.training and settings.track:
                move_stacked(running, None, mean, var, settings.momentum, y.numel() // y.shape[1])
        return y

    def before(self, layer: Surveyed, name: str) -> tuple[tuple[str, ...], str, Settings] | None:
        """The names of a known preprocessing module's convolutions and batch norm, and how this behaves."""
        module: nn.Module = getattr(layer, name)
        kept_module, known, watch = self._before.get(name, (None, None, None))
        if kept_module is not module or known is None or watch is None or not watch.stands():
            found = preprocessing(module)
            if isinstance(found, str):
                _tell(f"{self.owner}: a preprocessing runs in plain torch ({found})")
                return None
            known, watch = found, Watch(found.modules, list(found.convs.values()), list(found.norms.values()))
            self._before[name] = module, known, watch
        ((norm, statistics),) = known.norms.items()
        return tuple(known.convs), norm, Settings.of(statistics)

    def _running(self, edges: Any, stack: Stack | None, survey: Survey, route: Route) -> tuple[Tensor, Tensor]:
        """Running means and variances [B], in the plan's order."""
        places = _some(survey.stacked_norms, route.rows)
        if places is None or stack is None:
            means, variances, _ = kept(self._norms(edges, survey, route))
            return torch.cat(means), torch.cat(variances)
        (mean, var, _), rows = _rows(stack, places)
        return chosen(mean, rows).flatten(), chosen(var, rows).flatten()

    def _kernels(
        self, edges: Any, stack: Stack | None, survey: Survey, route: Route
    ) -> tuple[list[Tensor], Sequence[int]]:
        """The weights of the convolutions, or what they lie in, and where."""
        places = _some(survey.stacked_convs, route.kernels)
        if places is not None and stack is not None:
            # A module that stands in two columns has one place for two parameters, whose gradients are added up.
            return stack.pieces(places) if len(set(places)) == len(places) else (stack.kernels(places), ())
        if torch.compiler.is_compiling() or self._found is None:
            return [_at(edges, place).weight for place in _some(survey.convs, route.kernels) or ()], ()
        convs = _some(self._found.convs, route.kernels)
        return [own["_parameters"]["weight"] if own else conv.weight for conv, own in convs], ()

    def _norms(self, edges: Sequence[Any], survey: Survey, route: Route) -> Sequence[Any]:
        if torch.compiler.is_compiling() or self._found is None:
            return [_at(edges, place) for place in _some(survey.norms, route.rows) or ()]
        return _some(self._found.norms, route.rows) or ()


def _some(values: Sequence[Any] | None, index: Sequence[int] | None) -> Any:
    return values if values is None or index is None else tuple(values[each] for each in index)


def _at(edges: Any, place: Place) -> Any:
    candidates: Any = edges[place.edge]._ops
    return _inside(candidates[place.column], place.name)


def _inside(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _rows(stack: Stack, places: Sequence[int]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
    """A stack's statistics, and which rows of them these places are; None for all."""
    mean, var, tracked = stack.running_mean, stack.running_var, stack.num_batches_tracked
    first, count = places[0], len(places)
    if tuple(places) != tuple(range(first, first + count)):
        return (mean, var, tracked), constant(tuple(places), mean.device)
    if count < len(mean):
        mean, var, tracked = (each[first : first + count] for each in (mean, var, tracked))
    return (mean, var, tracked), None


def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Numbers on a device: made once, since a copy from the host in every step is what a CUDA graph cannot hold."""
    found: Tensor = _constant(values, device)
    keep_if_captured(found, device)
    return found


# torch.compile takes what these give as a constant: it cannot trace a cache, a log, or the look at hundreds of modules.
@constant_when_compiled
@functools.lru_cache(maxsize=1024)
def _constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


@constant_when_compiled
def _survey(number: int) -> Survey:
    layer = _LAYERS[number]
    return layer._engine.found(layer).survey


@constant_when_compiled
def _preprocessing(number: int, name: str) -> tuple[tuple[str, ...], str, Settings] | None:
    layer = _LAYERS[number]
    return layer._engine.before(layer, name)


@constant_when_compiled
def _outside() -> str:
    return "a tracer" if torch.jit.is_tracing() else elsewhere()


@constant_when_compiled
def _tell(line: str) -> None:
    _say(line)


@functools.cache
def _say(line: str) -> None:
    _LOG.warning("%s", line)
