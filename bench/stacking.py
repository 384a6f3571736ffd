"""Would N searches be faster as one stacked supernet than one after the other? Measured on the CPU, in plain torch.

    OMP_NUM_THREADS=1 python -m bench.stacking

Stacked, N supernets are one of N times the channels: depthwise convolutions, pools and batch norms see no difference,
pointwise convolutions get N groups, and each mixing weight is one number a group. The script builds that from N
supernets, holds its outputs and gradients in float64 against theirs, and times both levels' gradients of a first-order
step: stacked, one after the other in the same plain torch, and one after the other on the fused engine. Beside it
stands what the fused engine takes for two images instead of a batch: about what a step costs whatever it computes, of
which a stacked fused engine, which there is not, would at best pay one N-th.

Times are processor seconds of one thread, the least of some rounds, since the machine may have other work. Optimisers
are left out: they are a few percent.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.machine import describe
from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.nn.operations import FactorizedReduce, Zero
from fastdarts.spaces import space

__all__ = ["StackedSupernet", "check", "main", "measure"]

ROUNDS = 3
CASES = {
    "digits (C 8, 3 cells, 8 x 8, batch 64)": (8, 3, 64, 8, 1, (1, 2, 4)),
    "CIFAR-10 (C 16, 3 cells, 32 x 32, batch 16)": (16, 3, 16, 32, 3, (1, 2)),
}


class StackedSupernet(nn.Module):
    """N supernets as one, with copies of their weights and alphas.

    Args:
        models: supernets of one space and size, all channels mixed, shared cells.
    """

    def __init__(self, models: Sequence[Supernet]) -> None:
        super().__init__()
        first, self.count = models[0], len(models)
        self.stem = _stacked([model.stem for model in models])
        self.cells = nn.ModuleList(_StackedCell(list(cells)) for cells in zip(*(m.cells for m in models), strict=True))
        self.keys = first._keys
        self.alphas = nn.ParameterDict(
            {key: torch.stack([model.arch.alphas[key].detach() for model in models]) for key in first.arch.alphas}
        )
        self.weight = nn.Parameter(torch.stack([model.classifier.weight.detach() for model in models]))
        self.bias = nn.Parameter(torch.stack([model.classifier.bias.detach() for model in models]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, N, classes] of N batches, x: [B, N * in_channels, H, W]."""
        mixing = {key: alphas.softmax(-1) for key, alphas in self.alphas.items()}
        older = newer = self.stem(x)
        for key, cell in zip(self.keys, self.cells, strict=True):
            older, newer = newer, cell(older, newer, mixing[key])
        features = newer.mean((2, 3)).unflatten(1, (self.count, -1))
        return torch.einsum("bnf,nkf->bnk", features, self.weight) + self.bias


class _StackedCell(nn.Module):
    def __init__(self, cells: Sequence[Any]) -> None:
        super().__init__()
        self.count, self.space = len(cells), cells[0].space
        self.preprocess0 = _stacked([cell.preprocess0 for cell in cells])
        self.preprocess1 = _stacked([cell.preprocess1 for cell in cells])
        # Without `none`, which adds nothing.
        self.kept = [k for k, op in enumerate(cells[0]._ops[0]._ops) if not isinstance(op, Zero)]
        self.edges = nn.ModuleList(
            nn.ModuleList(_stacked([cell._ops[edge]._ops[k] for cell in cells]) for k in self.kept)
            for edge in range(len(self.space.edges))
        )

    def forward(self, s0: Tensor, s1: Tensor, mixing: Tensor) -> Tensor:
        """[B, N * C_0, H, W] and [B, N * C_1, H', W'] to [B, N * nodes * C, H'', W''], mixing: [N, E, K]."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        width = states[0].shape[1] // self.count
        weights = mixing.repeat_interleave(width, 0)[..., None, None]
        for node in self.space.states:
            terms = (
                weights[:, edge, k] * op(states[self.space.edges[edge].source])
                for edge in self.space.into(node)
                for k, op in zip(self.kept, self.edges[edge], strict=True)
            )
            states.append(sum(terms))
        nodes = [states[node].unflatten(1, (self.count, width)) for node in self.space.concat]
        return torch.cat(nodes, 2).flatten(1, 2)


class _StackedReduce(nn.Module):
    """:class:`FactorizedReduce` of N networks, on even sizes."""

    def __init__(self, ops: Sequence[FactorizedReduce]) -> None:
        super().__init__()
        self.count = len(ops)
        self.halves = nn.ModuleList([_stacked([op.conv_1 for op in ops]), _stacked([op.conv_2 for op in ops])])
        self.norm = _stacked([op.bn for op in ops])

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        halves = [conv(part) for conv, part in zip(self.halves, (x, x[:, :, 1:, 1:]), strict=True)]
        return self.norm(torch.cat([half.unflatten(1, (self.count, -1)) for half in halves], 2).flatten(1, 2))


def _stacked(ops: Sequence[Any]) -> nn.Module:
    """One module of N groups for N modules of the same kind, with their weights."""
    first, count = ops[0], len(ops)
    if isinstance(first, FactorizedReduce):
        return _StackedReduce(ops)
    if isinstance(first, nn.Conv2d):
        channels = count * first.in_channels, count * first.out_channels
        settings = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation, "bias": False}
        conv = nn.Conv2d(*channels, first.kernel_size, groups=count * first.groups, **settings)
        conv.weight = nn.Parameter(torch.cat([op.weight.detach() for op in ops]))
        return conv
    if isinstance(first, nn.BatchNorm2d):
        return nn.BatchNorm2d(count * first.num_features, affine=first.affine)
    if hasattr(first, "op"):
        return _stacked([op.op for op in ops])
    if isinstance(first, nn.Sequential):
        return nn.Sequential(*(_stacked(list(layers)) for layers in zip(*ops, strict=True)))
    # Pools, the identity and ReLU see single channels only.
    return first


def check(count: int = 3) -> float:
    """Largest difference in float64 of a stack's logits and alpha gradients to those of its supernets alone."""
    models = [_model(8, 3, 1).double() for _ in range(count)]
    stack = StackedSupernet(models).double()
    images = torch.randn(count, 5, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(5)
    logits = stack(images.transpose(0, 1).flatten(1, 2))
    F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(count), reduction="sum").backward()
    worst = 0.0
    with use_backend("reference"):
        for n, model in enumerate(models):
            own = model(images[n])
            F.cross_entropy(own, labels, reduction="sum").backward()
            pairs = [(logits[:, n], own)]
            pairs += [(stack.alphas[key].grad[n], alphas.grad) for key, alphas in model.arch.alphas.items()]
            worst = max(worst, *(float((left - right).detach().abs().max()) for left, right in pairs))
    return worst


def measure(
    channels: int, layers: int, batch: int, side: int, in_channels: int, counts: Sequence[int]
) -> dict[str, float]:
    """Processor seconds of both levels' gradients, a search and step, by what computes them."""
    models = [_model(channels, layers, in_channels) for _ in range(max(counts))]

    def images(count: int, size: int = batch) -> Tensor:
        return torch.randn(size, count * in_channels, side, side)

    def fused(size: int) -> Callable[[], None]:
        x, labels, model = images(1, size), torch.arange(size) % 10, models[0]
        return lambda: _gradients(lambda: F.cross_entropy(model(x), labels), model.arch_parameters(), _weights(model))

    contenders = {"fused, alone": (fused(batch), 1), "fused, two images": (fused(2), 1)}
    for count in counts:
        contenders["plain, alone" if count == 1 else f"plain, {count} stacked"] = _stack(models[:count], images, batch)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # Every round has all contenders, so that what else the machine does meets them alike.
    for _ in range(ROUNDS + 1):
        for name, (work, count) in contenders.items():
            start = time.process_time()
            work()
            times[name].append((time.process_time() - start) / count)
    return {name: min(each[1:]) for name, each in times.items()}


def _stack(models: Sequence[Supernet], images: Callable[[int], Tensor], batch: int) -> tuple[Callable[[], None], int]:
    stack, count = StackedSupernet(models), len(models)
    x, labels = images(count), (torch.arange(batch) % 10).repeat_interleave(count)
    alphas = list(stack.alphas.values())
    weights = [each for name, each in stack.named_parameters() if not name.startswith("alphas.")]

    def loss() -> Tensor:
        return count * F.cross_entropy(stack(x).flatten(0, 1), labels)

    return lambda: _gradients(loss, alphas, weights), count


def _gradients(loss: Callable[[], Tensor], alphas: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    torch.autograd.grad(loss(), alphas)
    torch.autograd.grad(loss(), weights, allow_unused=True)


def _weights(model: Supernet) -> list[nn.Parameter]:
    return [each for each in model.weight_parameters() if each.requires_grad]


def _model(channels: int, layers: int, in_channels: int) -> Supernet:
    return Supernet(space("darts"), channels=channels, layers=layers, in_channels=in_channels)


def main(path: str = "") -> None:
    """Check, measure, and print the table; with a path, write the numbers there as JSON."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    error = check()
    assert error < 1e-9, f"the stack is not its supernets: {error:.1e} apart in float64"
    result: dict[str, Any] = {"machine": describe(), "error64": error, "milliseconds": {}}
    for name, case in CASES.items():
        found = {contender: 1e3 * seconds for contender, seconds in measure(*case).items()}
        result["milliseconds"][name] = found
        print(f"{name}, processor milliseconds a search and step")
        for contender, milliseconds in found.items():
            print(f"  {contender:<18} {milliseconds:8.1f}  {milliseconds / found['fused, alone']:.2f} of fused, alone")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
