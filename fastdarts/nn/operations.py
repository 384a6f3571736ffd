"""The primitives as modules, with quark0's constructors and `state_dict` keys; the arithmetic is the reference's.

A module with convolutions takes their weights as `kernels` too, from where a mixed operation has stacked them: all
candidates' at once are one operation of autograd, one at a time as many as there are convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.checks import at_least_one
from fastdarts.spaces import PRIMITIVES, Primitive

__all__ = [
    "AvgPool",
    "Conv7x1",
    "DilConv",
    "FactorizedReduce",
    "Identity",
    "MaxPool",
    "Noise",
    "ReLUConvBN",
    "SepConv",
    "Zero",
    "build_op",
]

Kernels = Sequence[Tensor] | None


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
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor, kernels: Kernels = None) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        (weight,) = kernels or _kernels(self.op)
        return reference.relu_conv_bn(x, weight, stride=self.stride, padding=self.padding, norm=self.op[2])


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
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor, kernels: Kernels = None) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        depthwise, pointwise = kernels or _kernels(self.op)
        return reference.dil_conv(
            x,
            depthwise,
            pointwise,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            norm=self.op[3],
        )


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
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor, kernels: Kernels = None) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return reference.sep_conv(
            x,
            *(kernels or _kernels(self.op)),
            stride=self.stride,
            padding=self.padding,
            norm_1=self.op[3],
            norm_2=self.op[7],
        )


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
        self.stride = stride

    def forward(self, x: Tensor, kernels: Kernels = None) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        row, column = kernels or _kernels(self)
        return reference.conv_7x1_1x7(x, row, column, stride=self.stride, norm=self[3])


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

    def forward(self, x: Tensor, kernels: Kernels = None) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / 2), ceil(W / 2)]."""
        first, *second = kernels or [conv.weight for conv in (self.conv_1, self.conv_2) if conv is not None]
        return reference.factorised_reduce(x, first, second[0] if second else None, norm=self.bn)


class MaxPool(nn.Module):
    """The largest value of each window; :func:`fastdarts.reference.max_pool`.

    Args:
        kernel_size: side of the window, odd, pixels.
        stride: 1 or 2, pixels.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        return reference.max_pool(x, kernel=self.kernel_size, stride=self.stride)


class AvgPool(nn.Module):
    """The mean of each window's pixels inside the image; :func:`fastdarts.reference.avg_pool`.

    Args:
        kernel_size: side of the window, odd, pixels.
        stride: 1 or 2, pixels.
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, ceil(H / stride), ceil(W / stride)]."""
        return reference.avg_pool(x, kernel=self.kernel_size, stride=self.stride)


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

    Source: Liu et al. 2019 (DARTS), section 3.1; facts section 1.
    """
    at_least_one("channels", channels)
    if stride not in (1, 2):
        raise UserError(f"stride is {stride!r}", "1 or 2")
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
            return (MaxPool if name.startswith("max") else AvgPool)(kernel, stride)
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


def _kernels(layers: nn.Sequential) -> list[Tensor]:
    return [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
