"""Parameters as views of one buffer, and the two optimisers whose steps on it are a few launches each.

Torch's own optimiser objects stay what a checkpoint is made of: they hold the settings, and the states that are
computed here are theirs, so that a run may go on with the other kind of step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from fastdarts.ops.optim import adam_, sgd_

__all__ = ["FlatAdam", "FlatParameters", "FlatSGD"]

# Elements; 256 bytes of float32, which is what the allocator gives every tensor of its own.
_ALIGNED = 64


class FlatParameters:
    """Parameters that lie in one buffer, each from an address that kernels like, with a buffer for gradients.

    Names, shapes, `state_dict` and in-place changes of the parameters are as before. What lies between them is zero
    and stays so.

    Args:
        parameters: of one floating dtype on one device; their data move into the buffer.

    Attributes:
        values, gradient: [P].
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        first = parameters[0]
        if any((each.dtype, each.device) != (first.dtype, first.device) for each in parameters):
            raise TypeError("parameters of several dtypes or devices; expected one of each")
        sizes = [-(-each.numel() // _ALIGNED) * _ALIGNED for each in parameters]
        self._starts, self._shapes = [0, *accumulate(sizes)][:-1], [each.shape for each in parameters]
        self._parameters = list(parameters)
        self.values = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        self.gradient = torch.zeros_like(self.values)
        for parameter, view in zip(parameters, self.views(self.values), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def flat(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """Tensors of the parameters' shapes as a buffer [P]: a new one, or ``out`` with zeros between them."""
        out = torch.zeros_like(self.values) if out is None else out
        # One launch, which it would not be for shapes whose strides differ, as those of channels_last gradients do.
        torch._foreach_copy_([each.view(-1) for each in self.views(out)], [each.reshape(-1) for each in tensors])
        return out

    def views(self, flat: Tensor) -> list[Tensor]:
        """What of a buffer [P] belongs to each parameter, in its shape."""
        places = zip(self._starts, self._shapes, strict=True)
        return [flat[start : start + shape.numel()].view(shape) for start, shape in places]

    def spread(self, optimizer: torch.optim.Optimizer, name: str, flat: Tensor) -> None:
        """Make views of a buffer [P] the states of a torch optimiser."""
        for parameter, view in zip(self._parameters, self.views(flat), strict=True):
            optimizer.state[parameter][name] = view

    def collect(self, optimizer: torch.optim.Optimizer, name: str, flat: Tensor) -> None:
        """Copy the states of a torch optimiser into a buffer [P]; zero where there is none yet."""
        for parameter, view in zip(self._parameters, self.views(flat), strict=True):
            found = optimizer.state.get(parameter, {}).get(name)
            if found is None:
                view.zero_()
            elif found.data_ptr() != view.data_ptr():
                view.copy_(found)


class FlatSGD:
    """:func:`fastdarts.ops.optim.sgd_` in the place of a torch SGD.

    Args:
        optimizer: whose settings are used and whose states these are.
        parameters: its own.
        grad_clip: largest norm of all gradients, 0 for none.
    """

    def __init__(self, optimizer: torch.optim.SGD, parameters: FlatParameters, grad_clip: float) -> None:
        self.optimizer, self.parameters, self.grad_clip = optimizer, parameters, grad_clip
        self.momentum = torch.zeros_like(parameters.values)
        # Now, not after the first step: whoever reads the buffers finds the live ones at any time.
        self.adopt()

    def step(self, gradients: Sequence[Tensor], lr: Tensor) -> None:
        """Descend; ``lr`` [] float64 is read on the device."""
        group = self.optimizer.param_groups[0]
        sgd_(
            self.parameters.values,
            self.parameters.flat(gradients, self.parameters.gradient),
            self.momentum,
            lr,
            momentum_factor=group["momentum"],
            weight_decay=group["weight_decay"],
            grad_clip=self.grad_clip,
        )

    def adopt(self) -> None:
        """Go on from the states that the torch optimiser holds."""
        if self.optimizer.param_groups[0]["momentum"]:
            self.parameters.collect(self.optimizer, "momentum_buffer", self.momentum)
            self.parameters.spread(self.optimizer, "momentum_buffer", self.momentum)


class FlatAdam:
    """:func:`fastdarts.ops.optim.adam_` in the place of a torch Adam.

    Args:
        optimizer: whose settings are used and whose states these are.
        parameters: its own.
    """

    def __init__(self, optimizer: torch.optim.Adam, parameters: FlatParameters) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        values, group = parameters.values, optimizer.param_groups[0]
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = torch.zeros((), dtype=torch.float64, device=values.device)
        self.lr = torch.full((), group["lr"], dtype=torch.float64, device=values.device)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Descend."""
        group = self.optimizer.param_groups[0]
        adam_(
            self.parameters.values,
            self.parameters.flat(gradients, self.parameters.gradient),
            self.exp_avg,
            self.exp_avg_sq,
            self.steps,
            self.lr,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )

    def publish(self) -> None:
        """Give the torch optimiser its states; waits for the device."""
        steps = float(self.steps)
        if steps:
            self.parameters.spread(self.optimizer, "exp_avg", self.exp_avg)
            self.parameters.spread(self.optimizer, "exp_avg_sq", self.exp_avg_sq)
            for parameter in self.optimizer.param_groups[0]["params"]:
                self.optimizer.state[parameter]["step"] = torch.tensor(steps)

    def adopt(self) -> None:
        """Go on from the states that the torch optimiser holds."""
        self.parameters.collect(self.optimizer, "exp_avg", self.exp_avg)
        self.parameters.collect(self.optimizer, "exp_avg_sq", self.exp_avg_sq)
        group = self.optimizer.param_groups[0]
        self.steps.fill_(float(self.optimizer.state.get(group["params"][0], {}).get("step", 0.0)))
        self.lr.fill_(group["lr"])
