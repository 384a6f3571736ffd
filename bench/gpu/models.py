"""The contenders: eager torch in its layouts and precisions, torch.compile, and fastdarts, on the same networks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.gpu.stage import Options
from bench.plain import PlainSupernet
from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.search import SearchConfig, configure
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Choices
from fastdarts.search.graph import Replayed, new_recorder, new_step
from fastdarts.spaces import Space, define_space, space

__all__ = ["NETS", "TOY_SPACE", "Eager", "Fused", "Net", "batch", "engines", "net", "precision", "running"]

# One candidate of each kind.
TOY_SPACE = define_space(
    "toy", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"), nodes=2, layers=3
)


@dataclass(frozen=True)
class Net:
    """A supernet with its batch, as a paper searches with it.

    Args:
        name: as it stands in the tables.
        space, channels, layers, partial: of the supernet.
        batch: images a step.
        side: of the images, pixels.
        method: of `fastdarts.search.configure`.
    """

    name: str
    space: str
    channels: int
    layers: int
    batch: int
    partial: int = 1
    side: int = 32
    method: str = "darts-first"

    @property
    def searched(self) -> Space:
        """The space."""
        return TOY_SPACE if self.space == TOY_SPACE.name else space(self.space)

    def config(self, **overrides: Any) -> SearchConfig:
        """The search's settings."""
        given = {"channels": self.channels, "layers": self.layers, "batch_size": self.batch, "data": "custom"}
        return configure(self.method, **(given | {"space": self.space, "partial": self.partial} | overrides))


NETS = {
    each.name: each
    for each in (
        Net("DARTS", "darts", 16, 8, 64),
        Net("PC-DARTS", "darts", 16, 8, 256, partial=4, method="pc-darts"),
        Net("S2, 7 operators", "amended-s2-full", 36, 20, 96),
    )
}


def net(name: str, toy: bool) -> Net:
    """A supernet by name, or a tiny one in its place."""
    found = NETS[name]
    if not toy:
        return found
    return replace(found, space=TOY_SPACE.name, channels=4 * found.partial, layers=3, batch=2, side=8)


def batch(given: Net, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images [N, 3, H, W] and labels [N]."""
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(given.batch, 3, given.side, given.side, generator=generator, device=device)
    return images, torch.arange(given.batch, device=device) % 10


def engines(given: Options) -> list[str]:
    """The backends that a whole network is measured on, best first: a GPU's, live or not, or the CPU's."""
    return ["cuda", "triton"] if given.cuda else ["cpu"]


def precision(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """A block in which a network's maps are `fp32` or `bf16`: autocast over float32 weights."""
    if dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def running(backend: str, *, tf32: bool = False) -> Iterator[None]:
    """A block in which fastdarts runs on a backend, and float32 products may be TF32 or not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with use_backend(backend):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def compiled(model: nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
    """By `torch.compile` in a mode of its; `traced` for its tracing alone, as a dry run has it."""
    found: Callable[[Tensor], Tensor]
    found = torch.compile(model, backend="eager") if mode == "traced" else torch.compile(model, mode=mode)
    return found


class Eager:
    """The papers' network and first-order bilevel step in plain torch.

    Args:
        given: the network.
        device: where it lives.
        layout: of images and weights.
        dtype: `fp32`; `bf16` by autocast; `pure bf16` with weights in bfloat16 as well.
        compile_mode: of `torch.compile`; None for eager.
        graph: whether a CUDA graph shall hold its steps.
    """

    def __init__(
        self,
        given: Net,
        device: torch.device,
        *,
        layout: torch.memory_format = torch.contiguous_format,
        dtype: str = "fp32",
        compile_mode: str | None = None,
        graph: bool = False,
    ) -> None:
        torch.manual_seed(0)
        model = PlainSupernet(given.searched, channels=given.channels, layers=given.layers, partial=given.partial)
        self.model = model.to(device, memory_format=layout)
        self.images, self.labels = batch(given, device)
        self.images = self.images.contiguous(memory_format=layout)
        if dtype == "pure bf16":
            self.model, self.images = self.model.bfloat16(), self.images.bfloat16()
        self.dtype, self.device = "bf16" if dtype == "bf16" else "fp32", device
        self.call: Callable[[Tensor], Tensor] = self.model
        if compile_mode is not None:
            self.call = compiled(self.model, compile_mode)
        config = given.config()
        self.weights, self.alphas = self.model.weight_parameters(), self.model.arch_parameters()
        decay = {"momentum": config.momentum, "weight_decay": config.weight_decay}
        self.sgd, self.grad_clip = torch.optim.SGD(self.weights, config.lr, **decay), config.grad_clip
        betas = config.arch_beta1, config.arch_beta2
        decay = {"weight_decay": config.arch_weight_decay, "capturable": graph and device.type == "cuda"}
        self.adam = torch.optim.Adam(self.alphas, config.arch_lr, betas, **decay)

    def loss(self) -> Tensor:
        """Cross-entropy of the batch."""
        with precision(self.dtype, self.device):
            return F.cross_entropy(self.call(self.images), self.labels)

    def passes(self) -> None:
        """Forward and backward, all gradients."""
        for parameter in self.model.parameters():
            parameter.grad = None
        self.loss().backward()

    def step(self) -> None:
        """Both levels as the papers' loop has them: the architecture's backward computes every gradient."""
        self._step(lambda loss: loss.backward())

    def lean_step(self) -> None:
        """Both levels, the architecture's backward asked for the alphas' gradients alone: better than the papers'."""

        def backward(loss: Tensor) -> None:
            for alpha, gradient in zip(self.alphas, torch.autograd.grad(loss, self.alphas), strict=True):
                alpha.grad = gradient

        self._step(backward)

    def _step(self, backward: Callable[[Tensor], object]) -> None:
        self.adam.zero_grad(set_to_none=True)
        backward(self.loss())
        self.adam.step()
        self.sgd.zero_grad(set_to_none=True)
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.weights, self.grad_clip)
        self.sgd.step()


class Fused:
    """fastdarts' network, and the step of its search.

    Args:
        given: the network.
        device: where it lives.
        memory: `fast`, `balanced` or `lean`.
        dtype: `fp32`, or `bf16` by autocast.
    """

    def __init__(self, given: Net, device: torch.device, *, memory: str = "fast", dtype: str = "fp32") -> None:
        torch.manual_seed(0)
        shape = {"channels": given.channels, "layers": given.layers, "partial": given.partial, "memory": memory}
        self.model = Supernet(given.searched, **shape).to(device)
        self.images, self.labels = batch(given, device)
        self.dtype, self.device, self.config = dtype, device, given.config()
        self.notes: list[str] = []

    def passes(self) -> None:
        """Forward and backward, all gradients."""
        with precision(self.dtype, self.device):
            loss = F.cross_entropy(self.model(self.images), self.labels)
        # Not backward(): a gradient that is accumulated belongs to the stream on which its parameter was first used.
        # A network of one cell does not use the other kind's alphas.
        torch.autograd.grad(loss, list(self.model.parameters()), allow_unused=True)

    def step(self, *, graph: bool) -> Callable[[], None]:
        """A function that is a step of both levels; in a graph, its first calls launch one by one and then record.

        What keeps it from being recorded is said in `notes`.
        """
        step = new_step(self.config, self.device, self.model, Choices())
        given = self.images, self.labels
        progress: float | Tensor = 0.0
        if isinstance(step, UnattendedStep):
            progress, lr = (torch.full((), value, dtype=torch.float64, device=self.device) for value in (0.0, 0.025))
            step.lr = lr

        def both() -> None:
            with precision(self.dtype, self.device):
                step(given, given, progress)

        return Replayed(both, new_recorder(self.device, step, self.notes.append) if graph else None)
