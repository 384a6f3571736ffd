"""Gather, crop, flip, normalise and cut out, in plain torch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["augment"]


def augment(
    images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """A batch of augmented, normalised images, gathered from a set that lives on the device.

    `out[b, c, y, x] = raw(b, c, y + dy, x' + dx) * scale[c] + shift[c]` with `x' = W - 1 - x` where `flip[b]`, else
    `x`; `raw` is `images[index[b]]` inside the image and 0 outside; then 0.0 inside the cutout's rectangle. That is
    quark0's order: crop with zero padding, flip, normalise, cut out.

    Args:
        images: [N, C, H, W], uint8 | float32, contiguous; N, C, H, W at least 1.
        index: [B], int64; which image, 0 <= index < N.
        offset: [B, 2], int64, pixels; (dy, dx), any value.
        flip: [B], bool; mirror the crop from left to right.
        cutout: [B, 4], int64, pixels of the output; (y0, y1, x0, x1), half-open, any value; empty cuts nothing.
        scale: [C], float32; 1 / (255 std) for uint8 images.
        shift: [C], float32; -mean / std.

    Returns:
        [B, C, H, W], float32 (`scale`'s dtype in the reference), contiguous, on the images' device; it carries no
        gradient.

    Raises:
        UserError: (the op) a shape, a device, a layout or an index that does not fit, or an input that requires
            gradients. A GPU's kernel gives an image of NaN for such an index: the host does not wait to read it.
        TypeError: (the op) a dtype that does not fit.

    Source: quark0/darts `utils._data_transforms_cifar10`; DeVries and Taylor 2017 for the cutout.
    """
    height, width = images.shape[-2:]
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    # Past one image length every pixel is outside; clamped, an extreme offset cannot overflow the sum.
    dy, dx = offset[:, :1].clamp(-height, height), offset[:, 1:].clamp(-width, width)
    source_y = y + dy
    source_x = torch.where(flip[:, None], width - 1 - x, x) + dx
    inside = _between(source_y, 0, height)[:, :, None] & _between(source_x, 0, width)[:, None, :]
    raw = images[
        index[:, None, None, None],
        torch.arange(images.shape[1], device=images.device)[:, None, None],
        source_y.clamp(0, height - 1)[:, None, :, None],
        source_x.clamp(0, width - 1)[:, None, None, :],
    ].to(scale.dtype)
    raw = torch.where(inside[:, None], raw, 0.0)
    out = raw * scale[:, None, None] + shift[:, None, None]
    y0, y1, x0, x1 = cutout[:, :, None].unbind(1)
    cut = _between(y, y0, y1)[:, :, None] & _between(x, x0, x1)[:, None, :]
    return torch.where(cut[:, None], 0.0, out)


def _between(value: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return (value >= low) & (value < high)
