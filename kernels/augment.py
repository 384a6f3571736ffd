"""Gather, crop, flip, normalise and cut out: each program writes a block of one image, all of it in one pass."""

from __future__ import annotations

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant

__all__ = ["VARIANTS", "augment"]


@triton.jit
def augment(
    p_images,
    p_index,
    p_offset,
    p_flip,
    p_cutout,
    p_scale,
    p_shift,
    p_out,
    N,
    C: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Image `index[b]` of N, moved, mirrored, normalised and cut; NaN where there is no such image."""
    i_batch = tl.program_id(0).to(tl.int64)
    o_out = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_out = o_out < C * H * W
    o_channel = o_out // (H * W)
    o_row, o_column = o_out // W % H, o_out % W

    image = tl.load(p_index + i_batch)
    known = (image >= 0) & (image < N)
    image = tl.where(known, image, 0)
    # Past one image length every pixel is outside; clamped, an extreme offset cannot overflow the sum.
    down = tl.minimum(tl.maximum(tl.load(p_offset + 2 * i_batch), -H), H).to(tl.int32)
    right = tl.minimum(tl.maximum(tl.load(p_offset + 2 * i_batch + 1), -W), W).to(tl.int32)
    o_source_row = o_row + down
    o_source_column = tl.where(tl.load(p_flip + i_batch), W - 1 - o_column, o_column) + right
    m_inside = (o_source_row >= 0) & (o_source_row < H) & (o_source_column >= 0) & (o_source_column < W)

    o_source = image * (C * H * W) + (o_channel * H + o_source_row) * W + o_source_column
    b_raw = tl.load(p_images + o_source, mask=m_out & m_inside, other=0).to(tl.float32)  # [BLOCK]
    b_scale = tl.load(p_scale + o_channel, mask=m_out, other=0.0)  # [BLOCK]
    b_shift = tl.load(p_shift + o_channel, mask=m_out, other=0.0)  # [BLOCK]
    b_out = b_raw * b_scale + b_shift
    p_cut = p_cutout + 4 * i_batch
    m_cut = (o_row >= tl.load(p_cut)) & (o_row < tl.load(p_cut + 1))
    m_cut = m_cut & (o_column >= tl.load(p_cut + 2)) & (o_column < tl.load(p_cut + 3))
    b_out = tl.where(m_cut, 0.0, b_out)
    b_out = tl.where(known, b_out, float("nan"))
    tl.store(p_out + i_batch * (C * H * W) + o_out, b_out, mask=m_out)


_SIGNATURE = {
    "p_images": "*u8",
    "p_index": "*i64",
    "p_offset": "*i64",
    "p_flip": "*i1",
    "p_cutout": "*i64",
    "p_scale": "*fp32",
    "p_shift": "*fp32",
    "p_out": "*fp32",
    "N": "i32",
}
_CIFAR = {"C": 3, "H": 32, "W": 32, "BLOCK": 1024}
VARIANTS: tuple[Variant, ...] = (
    Variant(augment, _SIGNATURE, _CIFAR, name="CIFAR, uint8"),
    Variant(augment, _SIGNATURE | {"p_images": "*fp32"}, _CIFAR, name="CIFAR, float32"),
)
