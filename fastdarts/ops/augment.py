"""Gather, crop, flip, normalise and cut out in one pass over a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts._backend import backend_for, native
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name, require_tensors
from fastdarts.reference.augment import augment as _reference

__all__ = ["augment"]

_NAME = "fastdarts::augment"
_DTYPES = {
    "images": (torch.uint8, torch.float32),
    "index": (torch.int64,),
    "offset": (torch.int64,),
    "flip": (torch.bool,),
    "cutout": (torch.int64,),
    "scale": (torch.float32,),
    "shift": (torch.float32,),
}

torch.library.define(
    _NAME,
    "(Tensor images, Tensor index, Tensor offset, Tensor flip, Tensor cutout, Tensor scale, Tensor shift) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


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
    given = (images, index, offset, flip, cutout, scale, shift)
    require_tensors("augment", zip(_DTYPES, given, strict=True))
    out: Tensor = torch.ops.fastdarts.augment(*given)
    return out


def _check(*tensors: Tensor) -> None:
    # Called by every implementation rather than by the public function: torch.ops is a door too.
    named = dict(zip(_DTYPES, tensors, strict=True))
    for name, tensor in named.items():
        if tensor.dtype not in _DTYPES[name]:
            wanted = " or ".join(map(dtype_name, _DTYPES[name]))
            raise TypeError(f"augment: {name} is {dtype_name(tensor.dtype)}; expected {wanted}")
    images, index = named["images"], named["index"]
    if images.dim() != 4 or min(images.shape) < 1:
        raise UserError(f"augment: images have shape {list(images.shape)}", "[N, C, H, W], each at least 1")
    if index.dim() != 1:
        raise UserError(f"augment: index has shape {list(index.shape)}", "[B]")
    batch, channels = index.shape[0], images.shape[1]
    shapes = {"offset": (batch, 2), "flip": (batch,), "cutout": (batch, 4), "scale": (channels,), "shift": (channels,)}
    for name, shape in shapes.items():
        if tuple(named[name].shape) != shape:
            what = f"augment: {name} has shape {list(named[name].shape)}"
            raise UserError(what, f"{list(shape)} for {batch} indices and {channels} channels")
    for name, tensor in named.items():
        if tensor.device != images.device:
            what = f"augment: {name} is on {tensor.device}, images on {images.device}"
            raise UserError(what, "one device", f"move {name} with .to({str(images.device)!r})")
        if tensor.requires_grad:
            raise UserError(f"augment: {name} requires gradients", "data without gradients", f"pass {name}.detach()")
    if not images.is_contiguous():
        # Copied here it would be copied at each call: a whole data set for one batch.
        what, remedy = "augment: images are not contiguous", "call .contiguous() once, when loading"
        raise UserError(what, "a contiguous set", remedy)


@torch.library.register_fake(_NAME)
def _fake(
    images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    _check(images, index, offset, flip, cutout, scale, shift)
    return images.new_empty((index.shape[0], *images.shape[1:]), dtype=torch.float32)


@torch.library.impl(_NAME, "cpu")
def _cpu(
    images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    _check(images, index, offset, flip, cutout, scale, shift)
    count = images.shape[0]
    if index.numel():
        low, high = (bound.item() for bound in torch.aminmax(index))
        if low < 0 or high >= count:
            raise UserError(f"augment: index holds {low if low < 0 else high}", f"0 to {count - 1} for {count} images")
    core, backend = native(), backend_for("augment", "cpu")
    if backend == "triton":  # interpreted
        return _kernel(images, index, offset, flip, cutout, scale, shift)
    if backend == "reference" or core is None:
        return _reference(images, index, offset, flip, cutout, scale, shift)
    index, offset, flip, cutout, scale, shift = (
        tensor.contiguous() for tensor in (index, offset, flip, cutout, scale, shift)
    )
    _, channels, height, width = images.shape
    out = torch.empty((index.shape[0], channels, height, width), dtype=torch.float32)
    kernel = core.augment_uint8 if images.dtype == torch.uint8 else core.augment_float32
    kernel(
        images=images.data_ptr(),
        count=count,
        channels=channels,
        height=height,
        width=width,
        index=index.data_ptr(),
        offset=offset.data_ptr(),
        flip=flip.data_ptr(),
        cutout=cutout.data_ptr(),
        batch=index.shape[0],
        scale=scale.data_ptr(),
        shift=shift.data_ptr(),
        out=out.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return out


@torch.library.impl(_NAME, "cuda")
@maps.on_its_device
def _cuda(
    images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor, scale: Tensor, shift: Tensor
) -> Tensor:
    _check(images, index, offset, flip, cutout, scale, shift)
    # The range of index is not read here, which would make the host wait: the reference leaves it to torch's own
    # device-side check, the kernel writes NaN for an image that is not there.
    if backend_for("augment", "cuda") == "reference":
        return _reference(images, index, offset, flip, cutout, scale, shift)
    return _kernel(images, index, offset, flip, cutout, scale, shift)


def _kernel(*tensors: Tensor) -> Tensor:
    from fastdarts.ops._augment_triton import augment as kernel  # only now: triton is optional

    return kernel(*tensors)
