"""From what was typed to measurements: every point of a sweep, every memory mode, every contender, and what fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastdarts._backend import use_backend
from fastdarts.cli import plan as planning
from fastdarts.cli.profiling.children import Outcome, measured
from fastdarts.cli.profiling.growth import FIGURES, grown
from fastdarts.cli.profiling.request import Request, predictor
from fastdarts.cli.profiling.sweep import Axis, points, read_axes, reshaped
from fastdarts.cli.settings import configured
from fastdarts.errors import UserError
from fastdarts.plan import MEMORY

__all__ = ["Asked"]

Note = Callable[[str], None]
_INTEGERS = ("batch_size", "channels", "layers", "classes")
_ATTEMPTS = 3
_SHAPE = ("operators", "nodes")


class Asked:
    """A profile that was asked for; everything is checked here, before anything is measured.

    Args:
        method, data, space: as `fastdarts search` names them.
        named: batch_size, channels, layers, image_size, classes, dtype and memory; None for the data set's or method's.
        settings: texts of ``--set``.
        placed: device and backend.
        sweeps: texts of ``--sweep``.
        contenders: of :data:`fastdarts.cli.profiling.CONTENDERS`, the engine first.
        steps: timed, and warming up.
        budget: text of ``--budget``.

    Raises:
        UserError: for anything that cannot be.
    """

    def __init__(
        self,
        *,
        method: str,
        data: str,
        space: str | None,
        named: Mapping[str, Any],
        settings: Sequence[str],
        placed: Mapping[str, str],
        sweeps: Sequence[str],
        contenders: Sequence[str],
        steps: tuple[int, int],
        budget: str | None,
    ) -> None:
        if steps[0] < 1:
            raise UserError(f"steps is {steps[0]}", "at least 1")
        self._method, self._data, self._space = method, data, space
        self._named, self._settings, self._placed = dict(named), list(settings), placed
        self._contenders, self._steps = tuple(contenders), steps
        self.budget = None if budget is None else planning._bytes(budget)
        self.axes = read_axes(sweeps)
        self.swept = bool(self.axes)
        if "memory" not in [axis.name for axis in self.axes]:
            mode = self._named["memory"]
            modes = MEMORY if mode == "all" else (planning._one_of("memory", mode, (*MEMORY, "all")),)
            self.axes.append(Axis("memory", modes))
        # All of them now: a sweep must not end in its last point for what could be known at its first.
        self.requests = [(point, self._request(point)) for point in points(self.axes)]

    def answer(self, note: Note) -> dict[str, Any]:
        """Measure all of it.

        Args:
            note: told what is measured next.

        Returns:
            `facts`, `rows`, `growth` and `largest`, as JSON values.
        """
        rows = [self._row(each, note) for each in self._measurements()]
        first = self.requests[0][1]
        environment: dict[str, Any] = next((row["values"]["environment"] for row in rows if row["values"]), {})
        facts = {
            "method": self._method,
            "space": first.space.name,
            "channels": first.config.channels,
            "layers": first.config.layers,
            "partial": first.config.partial,
            "batch_size": first.config.batch_size,
            "image_size": list(first.size),
            "in_channels": first.in_channels,
            "classes": first.classes,
            "dtype": first.dtype,
            "budget_bytes": self.budget,
            "sweep": {axis.name: list(axis.values) for axis in self.axes} if self.swept else {},
            "notes": planning._notes(first.config),
            "environment": environment,
        }
        growth = [vars(each) for each in grown(self.axes, rows)] if self.swept else []
        return {"facts": facts, "rows": rows, "growth": growth, "largest": list(self._largest(note))}

    def _request(self, point: Mapping[str, str]) -> Request:
        """What a point asks, of the engine."""
        named, settings, shape = dict(self._named), list(self._settings), {}
        for name, value in point.items():
            if name in _SHAPE:
                shape[name] = value
            elif name in named:
                named[name] = _integer(name, value) if name in _INTEGERS else value
            else:
                settings.append(f"{name}={value}")
        dtype = planning._one_of("dtype", named.pop("dtype"), planning._DTYPES)
        mode = planning._one_of("memory", named.pop("memory"), MEMORY)
        size, classes = named.pop("image_size"), named.pop("classes")
        known, channels, own = planning._IMAGES[planning._one_of("data", self._data, tuple(planning._IMAGES))]
        config, space = configured(self._method, self._data, self._space, named, settings)
        config = replace(config, memory=mode, device=self._placed["device"], backend=self._placed["backend"])
        request = Request(
            config,
            reshaped(space, shape) if shape else space,
            own if size is None else planning._size(size),
            known if classes is None else classes,
            channels,
            dtype,
            "fastdarts",
            *self._steps,
            detail=not self.swept,
        )
        from fastdarts.search.foresight import check_cells

        check_cells(request.space, config.layers)
        # Made without memory: what cannot be built or run is refused now.
        with use_backend(request.backend):
            predictor(request)(config.batch_size)
        return request

    def _measurements(self) -> Iterator[tuple[dict[str, str], Request]]:
        """The engine in each mode; plain torch, which has none, once beside them."""
        yield from ((dict(point), request) for point, request in self.requests)
        seen = set()
        for point, request in self.requests:
            rest = {name: value for name, value in point.items() if name != "memory"}
            if tuple(rest.items()) not in seen:
                seen.add(tuple(rest.items()))
                yield from ((rest, replace(request, contender=each)) for each in self._contenders[1:])

    def _row(self, measurement: tuple[dict[str, str], Request], note: Note) -> dict[str, Any]:
        point, request = measurement
        where = ", ".join(f"{name} {value}" for name, value in point.items())
        note(f"measuring {request.contender}{f', {where}' if where else ''}")
        try:
            outcome = measured(request)
        except UserError as error:
            if not self.swept:
                raise
            outcome = Outcome(error=str(error))
        with use_backend(request.backend):
            predicted = outcome.values.get("predicted") or _bytes_of(request)
        values = outcome.values
        found = {name: values.get("measured", {}).get(name) for name in ("kept_bytes", "peak_bytes")}
        found |= {"step_bytes": values.get("step", {}).get("bytes"), "seconds": values.get("step", {}).get("seconds")}
        assert set(found) == set(FIGURES)
        return {
            "settings": point,
            "contender": request.contender,
            "images_per_second": values.get("step", {}).get("images_per_second"),
            **found,
            "predicted": predicted,
            "equal": values.get("equal"),
            "out_of_memory": outcome.out_of_memory,
            "error": outcome.error,
            "values": values,
        }

    def _largest(self, note: Note) -> Iterator[dict[str, Any]]:
        """The largest batch that fits the budget, by prediction, and one real step of it."""
        seen = set()
        for point, request in self.requests if self.budget is not None else ():
            rest = {name: value for name, value in point.items() if name != "batch_size"}
            if tuple(rest.items()) not in seen:
                seen.add(tuple(rest.items()))
                yield self._fitting(rest, request, note)

    def _fitting(self, point: dict[str, str], request: Request, note: Note) -> dict[str, Any]:
        from fastdarts.profile import largest_batch

        assert self.budget is not None
        found: dict[str, Any] = {"settings": point, "batch_size": 0, "predicted_bytes": None, "step_bytes": None}
        found |= {"seconds": None, "fits": False, "out_of_memory": False, "error": "no batch fits"}
        with use_backend(request.backend):
            predict = predictor(request)
        allowed = self.budget
        # A prediction is of one pass: a second-order step moves between copies of the weights besides.
        for _ in range(_ATTEMPTS):
            with use_backend(request.backend):
                batch = largest_batch(predict, allowed, start=request.config.batch_size)
                if not batch:
                    return found
                predicted = predict(batch).total_bytes
            note(f"confirming batch {batch} with {request.config.memory}")
            config = replace(request.config, batch_size=batch)
            outcome = measured(replace(request, config=config, steps=1, warm_up=0, detail=False))
            step = outcome.values.get("step", {})
            found |= {"batch_size": batch, "predicted_bytes": predicted, "seconds": step.get("seconds")}
            found |= {"out_of_memory": outcome.out_of_memory, "error": outcome.error, "step_bytes": step.get("bytes")}
            found["fits"] = bool(step) and step["bytes"] <= self.budget
            if found["fits"] or not step:
                return found
            allowed = self.budget - (step["bytes"] - predicted)
        return found


def _bytes_of(request: Request) -> dict[str, int]:
    return planning.usage_bytes(predictor(request)(request.config.batch_size))


def _integer(name: str, value: str) -> int:
    if not value.isdigit():
        raise UserError(f"{name} is {value!r}", "a whole number")
    return int(value)
