"""The primitives as modules, with quark0's constructors, layers and `state_dict` keys.

Each one calls its layers, and is whatever these have been made: exchanged, hooked, wrapped or converted.
:mod:`fastdarts.nn.known` says which of them the fused engine takes for its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.checks import at_least_one
from fastdarts.nn.primitives import OWN
from fastdarts.spaces import PRIMITIVES, Primitive

__all__ = [
    "Conv7x1",
    "DilConv",
    "FactorizedReduce",
    "Identity",
    "Noise",
    "ReLUConvBN",
    "SepConv",
    "Zero",
    "build_op",
    "channels_first",
    "computes_on_cpu",
]


class ReLUConvBN(nn.Module):
    """ReLU, a dense convolution, batch norm; :func:`fastdarts.reference.relu_conv_bn`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, pixels.
        stride: 1 or 2, pixels.
        padding: pixels of zeros on each side.
        affine: whether batch norm has a weight and a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, affine: bool = True
    ) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm2d(out_channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.op(_strided_input(x, *self.op.children()))
        return y


class DilConv(nn.Module):
    """ReLU, a dilated depthwise and a pointwise convolution, batch norm; :func:`fastdarts.reference.dil_conv`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the depthwise kernel, odd, pixels.
        stride: 1 or 2, pixels.
        padding: pixels of zeros on each side.
        dilation: pixels between the kernel's taps.
        affine: whether batch norm has a weight and a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            _depthwise(in_channels, kernel_size, stride, padding, dilation),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.op(x)
        return y


class SepConv(nn.Module):
    """A depthwise separable convolution applied twice; :func:`fastdarts.reference.sep_conv`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the depthwise kernels, odd, pixels.
        stride: of the first half, 1 or 2, pixels.
        padding: pixels of zeros on each side.
        affine: whether batch norm has a weight and a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, affine: bool = True
    ) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            _depthwise(in_channels, kernel_size, stride, padding),
            nn.Conv2d(in_channels, in_channels, 1, bias=False),
            nn.BatchNorm2d(in_channels, affine=affine),
            nn.ReLU(),
            _depthwise(in_channels, kernel_size, 1, padding),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        y: Tensor = self.op(x)
        return y


class Conv7x1(nn.Sequential):
    """ReLU, a 1xk and a kx1 convolution, batch norm; :func:`fastdarts.reference.conv_7x1_1x7`.

    Args:
        channels: of the input and the output.
        stride: 1 or 2, pixels.
        affine: whether batch norm has a weight and a bias.
        kernel: k, pixels, odd.
    """

    def __init__(self, channels: int, stride: int, affine: bool = True, kernel: int = 7) -> None:
        half = kernel // 2
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, kernel), stride=(1, stride), padding=(0, half), bias=False),
            nn.Conv2d(channels, channels, (kernel, 1), stride=(stride, 1), padding=(half, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )


class FactorizedReduce(nn.Module):
    """Halve the map by two shifted pointwise convolutions; :func:`fastdarts.reference.factorised_reduce`.

    An odd number of output channels gives the larger half to the first convolution; one channel has no second.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        affine: whether batch norm has a weight and a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False) if out_channels > 1 else None
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / 2), ceil(W / 2)]."""
        x = self.relu(x)
        halves = [self.conv_1(_strided_input(x, self.conv_1))]
        if self.conv_2 is not None:
            shifted, bottom, right = x[:, :, 1:, 1:], x.shape[2] % 2, x.shape[3] % 2
            if bottom or right:
                shifted = F.pad(shifted, (0, right, 0, bottom))
            halves.append(self.conv_2(_strided_input(shifted, self.conv_2)))
        y: Tensor = self.bn(torch.cat(halves, dim=1))
        return y


class Identity(nn.Module):
    """The skip connection at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


class Zero(nn.Module):
    """No connection; :func:`fastdarts.reference.zero`.

    Args:
        stride: 1 or 2, pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to zeros [N, C, ceil(H / stride), ceil(W / stride)]."""
        return reference.zero(x, stride=self.stride)


class Noise(nn.Module):
    """Standard normal values from torch's default generator; :func:`fastdarts.reference.noise`.

    Args:
        stride: 1 or 2, pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to noise [N, C, ceil(H / stride), ceil(W / stride)]."""
        return reference.noise(x, stride=self.stride)


def build_op(primitive: str, channels: int, stride: int, affine: bool, pool_bn: bool) -> nn.Module:
    """The module of a primitive.

    Args:
        primitive: a name of :data:`fastdarts.spaces.PRIMITIVES`.
        channels: of the input and the output, at least 1.
        stride: 1 or 2, pixels.
        affine: whether batch norms have a weight and a bias (the evaluation's do, the search's do not).
        pool_bn: whether a pool is followed by batch norm without affine part (the search's are).

    Returns:
        A module from [N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)].

    Raises:
        UserError: the primitive is unknown or none of a cell of convolutions, channels below 1, stride not 1 or 2.

    Source: Liu et al. 2019 (DARTS), section 3.1; docs/facts.md, 1.
    """
    at_least_one("channels", channels)
    if stride not in (1, 2):
        raise UserError(f"stride is {stride!r}", "1 or 2")
    if primitive in OWN:
        return OWN[primitive](channels, stride, affine)
    op = _build(primitive, channels, stride, affine)
    if pool_bn and PRIMITIVES[primitive].family == "pool":
        return nn.Sequential(op, nn.BatchNorm2d(channels, affine=False))
    return op


def _build(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    known = PRIMITIVES.get(name, Primitive(name, "unknown"))
    kernel, dilation = known.kernel, known.dilation
    padding = dilation * (kernel // 2)
    match known.family:
        case "none":
            return Zero(stride)
        case "skip":
            return Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
        case "pool":
            if name.startswith("max"):
                return nn.MaxPool2d(kernel, stride=stride, padding=padding)
            return nn.AvgPool2d(kernel, stride=stride, padding=padding, count_include_pad=False)
        case "sep_conv":
            return SepConv(channels, channels, kernel, stride, padding, affine)
        case "dil_conv":
            return DilConv(channels, channels, kernel, stride, padding, dilation, affine)
        case "conv" if name in ("conv_7x1_1x7", "conv_3x1_1x3"):
            return Conv7x1(channels, stride, affine, kernel)
        case "conv":
            return ReLUConvBN(channels, channels, kernel, stride, padding, affine)
        case "noise":
            return Noise(stride)
    built = [name for name, primitive in PRIMITIVES.items() if primitive.family != "activation"]
    raise UserError(f"primitive {name!r} is no operation of a convolutional cell", f"one of {', '.join(built)}")


def _depthwise(channels: int, kernel_size: int, stride: int, padding: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        channels,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=False,
    )


def computes_on_cpu(x: Tensor) -> bool:
    """Whether x is the CPU's; a tensor without data is taken for one, so that what it needs is predicted for a CPU."""
    return x.device.type in ("cpu", "meta")


def channels_first(x: Tensor) -> Tensor:
    """x as the peers' modules get it on a CPU, with the channels first in memory; on another device as it is.

    There torch's batch norm of a channels_last map is ten times less exact, and the weights' gradient of a strided 1x1
    convolution writes past its memory, until the process aborts (oneDNN issue 6035, in torch 2.13): below 16 input
    channels with AVX-512, below 8 with AVX2, where the map or the weight lies channels last.
    """
    is_last = computes_on_cpu(x) and _may_be_last(x)
    return x.clone(memory_format=torch.contiguous_format) if is_last else x


def _strided_input(x: Tensor, *layers: nn.Module) -> Tensor:
    """x as these layers can take it: channels first where one of them is a strided 1x1 convolution."""
    strided = [conv for conv in layers if isinstance(conv, nn.Conv2d) and _is_strided_pointwise(conv)]
    if not strided or not computes_on_cpu(x):
        return x
    for conv in strided:
        if _may_be_last(conv.weight):
            # `.to(memory_format=torch.channels_last)` has renamed the strides of sides of one pixel; no number moves.
            conv.weight.data = conv.weight.data.as_strided(conv.weight.shape, (conv.weight.shape[1], 1, 1, 1))
    return channels_first(x)


def _is_strided_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride != (1, 1)


def _may_be_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) != 1
