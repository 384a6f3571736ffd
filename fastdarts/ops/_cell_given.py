"""What a cell's op is given, in one record: the order of its fields is that of the op's schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._cell_pieces import Pieces, pieces, taken_apart
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.plan import MEMORY, CellPlan

__all__ = ["Asked", "Given"]


class Given(NamedTuple):
    """The arguments of :func:`fastdarts.ops.cell`; in backward mean and var are the statistics that were used.

    Args:
        sources: maps.
        weights: [E, width].
        bypass: [E] or None.
        parameters: one for each of the plan's, or, with places, the flat tensors in which these lie.
        places: tensor and first element of each of the plan's parameters, one after another; [] for one tensor each.
        noise: maps.
        mean: [B] or None.
        var: [B] or None.
        plan: encoded.
        memory: `fast`, `balanced` or `lean`.
        eps: added to the variance.
    """

    sources: list[Tensor]
    weights: Tensor
    bypass: Tensor | None
    parameters: list[Tensor]
    places: list[int]
    noise: list[Tensor]
    mean: Tensor | None
    var: Tensor | None
    plan: str
    memory: str
    eps: float

    @property
    def decoded(self) -> CellPlan:
        """The plan."""
        return CellPlan.decode(self.plan)

    @property
    def device(self) -> torch.device:
        """That of all."""
        return self.sources[0].device

    def pieces(self) -> Pieces | None:
        """Where the parameters lie; None where each is a tensor."""
        if not self.places:
            return None
        return pieces(self.plan, tuple(self.places), tuple(int(each.numel()) for each in self.parameters))

    def kernels(self) -> list[Tensor]:
        """The plan's parameters, each in its shape."""
        found = self.pieces()
        return self.parameters if found is None else taken_apart(self.parameters, found)

    def flat_weights(self) -> Tensor:
        """The mixing weights as [E * width + 1] float64, the last one 0: the weight of what an edge has not."""
        flat = self.weights.detach().to(torch.float64).reshape(-1)
        return torch.cat([flat, flat.new_zeros(1)])

    def check_tensors(self) -> None:
        """Refuse what is no tensor, and a call without sources."""
        if not self.sources:
            raise UserError("cell: there are no sources", "one for each input of the plan")
        require_tensors("cell", self._named())

    def check(self) -> None:
        """Refuse what does not fit the plan.

        Called by every implementation rather than by the public function: torch.ops is a door too.

        Raises:
            UserError: a wrong number, shape or device, an empty batch, one value a channel in training.
            TypeError: a wrong dtype.
        """
        plan = self.decoded
        if self.memory not in MEMORY:
            raise UserError(f"cell: memory is {self.memory!r}", f"one of {', '.join(MEMORY)}")
        for name, several, count in (
            ("sources", self.sources, plan.given),
            ("noise maps", self.noise, len(plan.noises)),
            *([] if self.places else [("parameters", self.parameters, len(plan.parameters))]),
        ):
            if len(several) != count:
                raise UserError(f"cell: {len(several)} {name}", f"{count}, as the plan has")
        x = self.sources[0]
        if x.dim() != 4 or x.shape[1] != plan.channels or 0 in x.shape:
            what = f"cell: sources[0] has shape {list(x.shape)}"
            raise UserError(what, f"[N, {plan.channels}, H, W], N, H and W at least 1")
        self._check_types()
        self._check_shapes(plan)
        if self.bypass is not None and plan.partial == 1:
            what = "cell: bypass is given where all channels are mixed"
            raise UserError(what, "None", "multiply it into the weights")
        if (self.mean is None) != (self.var is None):
            raise UserError("cell: one of mean and var is missing", "both, or neither for those of the batch")
        for name, one in (("mean", self.mean), ("var", self.var)):
            if one is not None and one.requires_grad:
                raise UserError(f"cell: {name} requires gradients", "none", f"pass {name}.detach()")
        pixels = x.shape[0] * -(-x.shape[2] // plan.stride) * -(-x.shape[3] // plan.stride)
        if self.mean is None and plan.norms and pixels == 1:
            what = f"cell: maps of shape {list(x.shape)} leave one value a channel"
            raise UserError(what, "at least two in training", "use a larger batch or image, or pass running statistics")

    def _check_shapes(self, plan: CellPlan) -> None:
        n, _, height, width = self.sources[0].shape
        height, width = -(-height // plan.stride), -(-width // plan.stride)
        shapes: list[tuple[int, ...]] = [tuple(self.sources[0].shape)] * plan.inputs
        shapes += [(n, plan.channels, height, width)] * plan.ready
        if self.places:
            self.pieces()
            shapes += [(each.numel(),) for each in self.parameters]
        else:
            shapes += [each.shape for each in plan.parameters]
        shapes += [(n, plan.mixed, height, width)] * len(self.noise)
        if [tensor.shape for tensor in (*self.sources, *self.parameters, *self.noise)] != shapes:
            for (name, tensor), shape in zip(self._listed(), shapes, strict=True):
                if tensor.shape != shape:
                    raise UserError(f"cell: {name} has shape {list(tensor.shape)}", f"{list(shape)}")
        edges, statistics = len(plan.edges), len(plan.norms) * plan.mixed
        if self.weights.dim() != 2 or self.weights.shape[0] != edges or self.weights.shape[1] < plan.width:
            what = f"cell: weights have shape {list(self.weights.shape)}"
            raise UserError(what, f"[{edges}, {plan.width} or more]")
        for name, one, size in (
            ("bypass", self.bypass, edges),
            ("mean", self.mean, statistics),
            ("var", self.var, statistics),
        ):
            if one is not None and one.shape != (size,):
                raise UserError(f"cell: {name} has shape {list(one.shape)}", f"[{size}]")

    def _check_types(self) -> None:
        dtype, device = self.sources[0].dtype, self.device
        maps.check_stored("cell", "sources[0]", self.sources[0])
        mapped = (*self.sources, *self.noise)
        given = (self.weights, self.bypass, *self.parameters, self.mean, self.var)
        others = [each for each in given if each is not None]
        dtypes = {each.dtype for each in others}
        if (
            {each.dtype for each in mapped} == {dtype}
            and all(each.is_floating_point for each in dtypes)
            and {each.device for each in (*mapped, *others)} == {device}
        ):
            return
        for name, tensor in self._named():
            if name.startswith(("sources", "noise")) and tensor.dtype != dtype:
                what = f"cell: {name} is {dtype_name(tensor.dtype)}"
                raise TypeError(f"{what}; expected {dtype_name(dtype)}, as sources[0]")
            if not tensor.is_floating_point():
                raise TypeError(f"cell: {name} is {dtype_name(tensor.dtype)}; expected a floating dtype")
            if tensor.device != device:
                what = f"cell: {name} is on {tensor.device}, sources[0] on {device}"
                raise UserError(what, "one device", f"move {name} with .to({str(device)!r})")

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name."""
        yield from self._listed()
        yield "weights", self.weights
        for name, one in (("bypass", self.bypass), ("mean", self.mean), ("var", self.var)):
            if one is not None:
                yield name, one

    def _listed(self) -> Iterator[tuple[str, Tensor]]:
        for name, several in (("sources", self.sources), ("parameters", self.parameters), ("noise", self.noise)):
            for i, tensor in enumerate(several):
                yield f"{name}[{i}]", tensor


@dataclass(frozen=True)
class Asked:
    """Whose gradients are asked; in the order of the schema of the op's backward.

    Args:
        sources: for each state that is handed in.
        noise: for each candidate that is handed in.
        weights: the mixing weights'.
        bypass: the bypasses' weights'.
        parameters: the parameters'.
    """

    sources: tuple[bool, ...]
    noise: tuple[bool, ...]
    weights: bool
    bypass: bool
    parameters: bool
