"""The batch's augmentation on Triton: arguments as in `fastdarts.reference.augment`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fastdarts.kernels import augment as kernels
from fastdarts.ops import maps

__all__ = ["augment"]

_BLOCK = 1024  # elements: a third of a CIFAR image


def augment(
    images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    """See :func:`fastdarts.reference.augment.augment`; one launch. An index without an image gives one of NaN."""
    count, channels, height, width = images.shape
    batch = index.shape[0]
    out = maps.empty(batch, channels, height, width, dtype=torch.float32, device=images.device)
    if images.is_meta or not batch:
        return out
    index, offset, flip, cutout, scale, shift = (
        tensor.contiguous() for tensor in (index, offset, flip, cutout, scale, shift)
    )
    kernels.augment[(batch, triton.cdiv(channels * height * width, _BLOCK))](
        images,
        index,
        offset,
        flip,
        cutout,
        scale,
        shift,
        out,
        count,
        C=channels,
        H=height,
        W=width,
        BLOCK=_BLOCK,
        num_warps=4,
        enable_fp_fusion=False,  # the product is rounded before the sum, as everywhere else: the same bits
    )
    return out
