"""Shapes of what a kernel's call reads and writes, for benchmarks that make its arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdarts.plan._schedule import Convolution, InEdge, Plain

__all__ = ["Map", "PlainShapes", "PoolShapes", "PreprocessShapes", "StencilShapes", "SumShapes"]


@dataclass(frozen=True)
class Map:
    """A map [N, C, H, W], channels last, whose pixels lie `pixel` elements apart."""

    n: int
    channels: int
    height: int
    width: int
    pixel: int

    @property
    def elements(self) -> int:
        """N C H W."""
        return self.n * self.channels * self.height * self.width

    def first(self, channels: int) -> Map:
        """The first channels of each pixel."""
        return replace(self, channels=channels)

    def dense(self, channels: int, stride: int = 1) -> Map:
        """A map of its own, of this one's size over the stride."""
        return Map(self.n, channels, -(-self.height // stride), -(-self.width // stride), channels)


@dataclass(frozen=True)
class StencilShapes:
    """What a call of the stencil is given.

    Args:
        sources: what the convolutions read.
        convolutions: of the program.
        normalised: whether the sources are, as a separable convolution's second half reads them.
        inner: backward: for each convolution the second half that its gradient comes from; None: the node.
        add: backward: whether the sources' gradients are added to maps that exist.
        weights: backward: whether the weights' gradients are asked.
    """

    sources: tuple[Map, ...]
    convolutions: tuple[Convolution, ...]
    normalised: bool
    inner: tuple[int | None, ...] = ()
    add: bool = False
    weights: bool = True


@dataclass(frozen=True)
class SumShapes:
    """What a call of the mixed sum is given: the node, the number of its stored terms, and its in-edges."""

    node: Map
    terms: int
    sources: tuple[Map, ...]
    edges: tuple[InEdge, ...]
    partial: int


@dataclass(frozen=True)
class PoolShapes:
    """What a call for the moments of pools is given."""

    source: Map
    stride: int
    max_pool: bool
    avg_pool: bool


@dataclass(frozen=True)
class PreprocessShapes:
    """What a call of the preprocessing is given: its input, output channels of each weight, stride, what is asked."""

    x: Map
    outputs: tuple[int, ...]
    stride: int
    add: bool = False
    weights: bool = True

    @property
    def y(self) -> Map:
        """What it makes."""
        return self.x.dense(sum(self.outputs), self.stride)


@dataclass(frozen=True)
class PlainShapes:
    """What a call of torch's own kernels is given: its input, its output, and the candidate."""

    x: Map
    y: Map
    plain: Plain
    weights: bool = True
