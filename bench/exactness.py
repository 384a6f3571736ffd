"""How exact a search network is in float32: the fused engine and eager torch against float64, over some seeds.

    OMP_NUM_THREADS=1 python -m bench.exactness [seeds] [side]

A `fastdarts.compat.darts.Network` (C 8, 3 cells, batch 16) makes one pass in training and one in evaluation: on the
engine, in plain torch (the reference backend, bit for bit what quark0's code gives: tests/test_compat_golden.py) and in
plain torch in float64. For logits, loss, the gradients of alphas and weights and the running statistics the script
prints the error of each, relative to its largest value: the median over the seeds and the largest. The largest are of
seeds at which a rounding, of either, carries a value across a kink of ReLU: a matter of chance, and not of exactness.
"""

from __future__ import annotations

import copy
import sys
from statistics import median

import torch
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts.compat.darts import Network

__all__ = ["errors", "main"]

CHANNELS, LAYERS, BATCH = 8, 3, 16


def _pass(model: nn.Module, images: Tensor, labels: Tensor, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    model = copy.deepcopy(model).to(dtype)
    with use_backend(backend):
        logits = model(images.to(dtype))
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        found = {"logits": logits, "loss": loss}
        found["alpha gradients"] = torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()])
        found["weight gradients"] = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        for name in ("running_mean", "running_var"):
            own = (value.flatten() for key, value in model.state_dict().items() if key.endswith(name))
            found[name] = torch.cat(list(own))
        with torch.no_grad():
            found["logits in evaluation"] = model.eval()(images.to(dtype))
    return {name: value.detach().double() for name, value in found.items()}


def errors(seed: int, side: int) -> dict[str, tuple[float, float]]:
    """For each quantity the engine's error and eager torch's, relative to its largest value in float64."""
    torch.manual_seed(seed)
    model = Network(CHANNELS, 10, LAYERS, nn.CrossEntropyLoss())
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_(std=0.5)
    images, labels = torch.randn(BATCH, 3, side, side), torch.randint(0, 10, (BATCH,))
    ref64 = _pass(model, images, labels, "reference", torch.float64)
    own, eager = (_pass(model, images, labels, backend, torch.float32) for backend in ("auto", "reference"))

    def error(found: dict[str, Tensor], name: str) -> float:
        return float((found[name] - ref64[name]).abs().max() / ref64[name].abs().max())

    return {name: (error(own, name), error(eager, name)) for name in ref64}


def main(seeds: int = 16, side: int = 32) -> None:
    """Print the table."""
    found = [errors(seed, side) for seed in range(seeds)]
    print(f"{'':<22} {'engine':>9} {'eager':>9} {'ratio':>6}   {'engine':>9} {'eager':>9}   (median, largest)")
    for name in found[0]:
        pairs = [each[name] for each in found]
        middle, largest = ([pick(pair[i] for pair in pairs) for i in (0, 1)] for pick in (median, max))
        ratio = middle[0] / middle[1]
        print(f"{name:<22} {middle[0]:9.2e} {middle[1]:9.2e} {ratio:6.2f}   {largest[0]:9.2e} {largest[1]:9.2e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
