"""The gradients of ReLU and 1x1 convolution, the batch norm's applied on the fly: `dy = alpha g + beta y + gamma`.

    reduce     sum g and sum g xhat, in parts
    backward   dx = W^T dy where x > 0, and dW = dy relu(x)^T, in parts
    fold_sums  the parts added in float64, in their order

A program of `backward` owns BK input channels and every `slots`-th block of pixels, so that dW stays in registers until
its end: x and dx pass once, g and y once for each BK input channels, from the second-level cache after the first.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from fastdarts.kernels._variants import Variant
from fastdarts.kernels.preprocess import (
    SHAPES,
    Tiles,
    alignment,
    arithmetic,
    factor,
    outputs_in_tiles,
    pixels_of,
    power_of_two,
    products_of,
    weight_of,
)

__all__ = ["VARIANTS", "backward", "fold_sums", "in_two", "reduce", "tiles_of"]


def tiles_of(inputs: int, outputs: int) -> Tiles:
    """What a program of `backward` takes of that many channels of the input, and of the output or one half of it."""
    first, second = outputs_in_tiles(outputs)
    if second == 0 and first > 32:  # one wide tile takes more registers than two
        first, second = first // 2, first // 2
    # W's tile lies in shared memory: 163 KiB of it on sm_80.
    most = 64 if first + second <= 144 else 32 if first + second <= 256 else 16
    chunk = min(most, max(16, power_of_two(inputs)))
    return Tiles(32 if first <= 32 else 16, chunk, first, second, 8 if chunk > 16 else 4)


def in_two(outputs: int) -> bool:
    """Whether dx and dW are better computed by a launch each: together they do not fit the registers."""
    return outputs > 128


@triton.jit
def _add(total, products, other_total, other_products):
    return total + other_total, products + other_products


@triton.jit(do_not_specialize=["pixels", "slots"])
def reduce(
    p_part,
    p_g,
    p_xhat,
    g_pixel,
    xhat_pixel,
    pixels,
    slots,
    C: tl.constexpr,
    ALIGN: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Program (slot, block of channels): its part of sum g and sum g xhat, [slots, 2, C]."""
    ACC: tl.constexpr = tl.float64 if p_g.dtype.element_ty == tl.float64 else tl.float32
    i_slot = tl.program_id(0)
    o_channel = tl.program_id(1) * BC + tl.arange(0, BC)
    m_channel = o_channel < C
    b_total, b_products = tl.zeros([BP, BC], ACC), tl.zeros([BP, BC], ACC)
    for i_block in range(i_slot, (pixels + BP - 1) // BP, slots):
        o_pixel = i_block * BP + tl.arange(0, BP)
        m = (o_pixel < pixels)[:, None] & m_channel[None, :]
        o_g = tl.multiple_of(o_pixel.to(tl.int64) * g_pixel, ALIGN)[:, None]
        o_xhat = tl.multiple_of(o_pixel.to(tl.int64) * xhat_pixel, ALIGN)[:, None]
        b_g = arithmetic(tl.load(p_g + o_g + o_channel[None, :], mask=m, other=0.0))  # [BP, BC]
        b_xhat = arithmetic(tl.load(p_xhat + o_xhat + o_channel[None, :], mask=m, other=0.0))  # [BP, BC]
        b_total += b_g
        b_products += b_g * b_xhat
    p_part += i_slot.to(tl.int64) * 2 * C + o_channel
    # In one: two sums of blocks loaded element by element crash the compiler of triton 3.9.
    b_total, b_products = tl.reduce((b_total, b_products), 0, _add)
    tl.store(p_part, b_total, mask=m_channel)
    tl.store(p_part + C, b_products, mask=m_channel)


@triton.jit(do_not_specialize=["slots"])
def fold_sums(p_first, p_second, p_part, slots, first, size, BS: tl.constexpr, B: tl.constexpr):
    """The sums over slots of parts [slots, size]: the first `first` of them to p_first, the others to p_second."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    b_sum = tl.zeros([BS, B], tl.float64)
    for i_slot in range(0, slots, BS):
        o_slot = i_slot + tl.arange(0, BS)
        m = (o_slot < slots)[:, None] & (o < size)[None, :]
        o_part = o_slot.to(tl.int64)[:, None] * size + o[None, :]
        b_sum += tl.load(p_part + o_part, mask=m, other=0.0).to(tl.float64)  # [BS, B]
    b_out = tl.sum(b_sum, 0).to(p_first.dtype.element_ty)
    tl.store(p_first + o, b_out, mask=o < first)
    tl.store(p_second + (o - first), b_out, mask=(o >= first) & (o < size))


@triton.jit
def _gradient(
    p_g,
    p_y,
    p_alpha,
    p_beta,
    p_gamma,
    g_pixel,
    y_pixel,
    o_pixel,
    m_pixel,
    o_out,
    m_out,
    HAS_Y: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """dy [BP, B]; 0 outside, as a sum over pixels needs it."""
    m = m_pixel[:, None] & m_out[None, :]
    o_g = tl.multiple_of(o_pixel.to(tl.int64) * g_pixel, ALIGN)[:, None]
    b_g = arithmetic(tl.load(p_g + o_g + o_out[None, :], mask=m, other=0.0))  # [BP, B]
    b_dy = b_g * tl.load(p_alpha + o_out, mask=m_out, other=0.0).to(b_g.dtype)[None, :]
    b_dy += tl.load(p_gamma + o_out, mask=m_out, other=0.0).to(b_g.dtype)[None, :]
    if HAS_Y:
        o_y = tl.multiple_of(o_pixel.to(tl.int64) * y_pixel, ALIGN)[:, None]
        b_y = arithmetic(tl.load(p_y + o_y + o_out[None, :], mask=m, other=0.0))  # [BP, B]
        b_dy += b_y * tl.load(p_beta + o_out, mask=m_out, other=0.0).to(b_g.dtype)[None, :]
    return tl.where(m, b_dy, 0.0)


@triton.jit(do_not_specialize=["pixels", "slots"])
def backward(
    p_dx,
    p_part,
    p_x,
    p_first,
    p_second,
    p_g,
    p_y,
    p_alpha,
    p_beta,
    p_gamma,
    image,
    channel,
    row,
    column,
    dx_image,
    dx_channel,
    dx_row,
    dx_column,
    g_pixel,
    y_pixel,
    pixels,
    height,
    width,
    slots,
    C_IN: tl.constexpr,
    O1: tl.constexpr,
    O2: tl.constexpr,
    STRIDE: tl.constexpr,
    WALK: tl.constexpr,
    DX_WALK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_Y: tl.constexpr,
    ADD: tl.constexpr,
    NEED_DX: tl.constexpr,
    NEED_DW: tl.constexpr,
    PRECISION: tl.constexpr,
    BP: tl.constexpr,
    BK: tl.constexpr,
    B1: tl.constexpr,
    B2: tl.constexpr,
):
    """Program (slot, block of input channels, half): dx written or added, dW's part [slots, O1 + O2, C_IN]."""
    ACC: tl.constexpr = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32
    i_slot, i_half = tl.program_id(0), tl.program_id(2)
    p_weight = p_first
    if i_half == 1:
        p_weight = p_second
    outputs, i_out = tl.where(i_half == 0, O1, O2), i_half * O1
    p_g, p_y, p_alpha, p_beta, p_gamma = p_g + i_out, p_y + i_out, p_alpha + i_out, p_beta + i_out, p_gamma + i_out
    o_in = tl.program_id(1) * BK + tl.arange(0, BK)
    m_in = o_in < C_IN
    o_one = tl.arange(0, B1)
    m_one = o_one < outputs
    b_dw_one = tl.zeros([B1, BK], ACC)
    if NEED_DX:
        b_one = factor(
            weight_of(p_weight, o_one[:, None], m_one[:, None], o_in[None, :], m_in[None, :], C_IN), PRECISION
        )
    if B2 > 0:
        o_two = B1 + tl.arange(0, B2)
        m_two = o_two < outputs
        b_dw_two = tl.zeros([B2, BK], ACC)
        if NEED_DX:
            b_two = weight_of(p_weight, o_two[:, None], m_two[:, None], o_in[None, :], m_in[None, :], C_IN)
            b_two = factor(b_two, PRECISION)
    for i_block in range(i_slot, (pixels + BP - 1) // BP, slots):
        o_pixel = i_block * BP + tl.arange(0, BP)
        m_pixel = o_pixel < pixels
        o_x, m_x = pixels_of(o_pixel, m_pixel, i_half, image, row, column, height, width, STRIDE, WALK, ALIGN)
        p_tile = p_x + o_x[:, None] + o_in.to(tl.int64)[None, :] * channel
        m = m_x[:, None] & m_in[None, :]
        b_x = arithmetic(tl.load(p_tile, mask=m, other=0.0))  # [BP, BK]
        b_dy = _gradient(
            p_g, p_y, p_alpha, p_beta, p_gamma, g_pixel, y_pixel, o_pixel, m_pixel, o_one, m_one, HAS_Y, ALIGN
        )
        b_dy = factor(b_dy, PRECISION)
        if NEED_DX:
            b_dx = tl.dot(b_dy, b_one, input_precision=PRECISION, out_dtype=ACC)
        if NEED_DW:
            b_relu = factor(tl.where(b_x <= 0, 0.0, b_x), PRECISION)
            b_dw_one = tl.dot(tl.trans(b_dy), b_relu, b_dw_one, input_precision=PRECISION, out_dtype=ACC)
        if B2 > 0:
            b_dy = _gradient(
                p_g, p_y, p_alpha, p_beta, p_gamma, g_pixel, y_pixel, o_pixel, m_pixel, o_two, m_two, HAS_Y, ALIGN
            )
            b_dy = factor(b_dy, PRECISION)
            if NEED_DX:
                b_dx = tl.dot(b_dy, b_two, b_dx, input_precision=PRECISION, out_dtype=ACC)
            if NEED_DW:
                b_dw_two = tl.dot(tl.trans(b_dy), b_relu, b_dw_two, input_precision=PRECISION, out_dtype=ACC)
        if NEED_DX:
            o_dx, _ = pixels_of(
                o_pixel, m_pixel, i_half, dx_image, dx_row, dx_column, height, width, STRIDE, DX_WALK, ALIGN
            )
            p_tile = p_dx + o_dx[:, None] + o_in.to(tl.int64)[None, :] * dx_channel
            b_dx = tl.where(b_x <= 0, 0.0, b_dx)
            if ADD:
                b_dx += arithmetic(tl.load(p_tile, mask=m, other=0.0))  # [BP, BK]
            tl.store(p_tile, b_dx.to(p_dx.dtype.element_ty), mask=m)
    if NEED_DW:
        p_part += (i_slot.to(tl.int64) * (O1 + O2) + i_out) * C_IN
        tl.store(p_part + o_one[:, None] * C_IN + o_in[None, :], b_dw_one, mask=m_one[:, None] & m_in[None, :])
        if B2 > 0:
            tl.store(p_part + o_two[:, None] * C_IN + o_in[None, :], b_dw_two, mask=m_two[:, None] & m_in[None, :])


def _variants() -> Iterator[Variant]:
    strides = ("image", "row", "column", "dx_image", "dx_row", "dx_column", "g_pixel", "y_pixel")
    numbers = dict.fromkeys((*strides, "pixels", "height", "width", "slots"), "i32")
    coefficients = dict.fromkeys(("p_alpha", "p_beta", "p_gamma"), "*fp64")
    for dtype in ("fp32", "bf16"):
        maps = dict.fromkeys(("p_dx", "p_x", "p_g", "p_y"), f"*{dtype}")
        signature = {**maps, "p_part": "*fp32", "p_first": "*fp32", "p_second": "*fp32", **coefficients, **numbers}
        for name, shape in SHAPES.items():
            constants = products_of(shape, dtype)
            tiles = tiles_of(shape[0], constants["O1"])
            constants |= {"ALIGN": alignment(*shape[:2]), "dx_channel": 1, "DX_WALK": constants["WALK"], "HAS_Y": True}
            constants |= {"ADD": shape[3] == 2, **dict(zip(("BP", "BK", "B1", "B2"), tiles, strict=False))}
            for needs in ((True, False), (False, True)) if in_two(constants["O1"]) else ((True, True),):
                constants |= dict(zip(("NEED_DX", "NEED_DW"), needs, strict=True))
                what = " and ".join(word for word, need in zip(("dx", "dW"), needs, strict=True) if need)
                yield Variant(backward, signature, dict(constants), tiles.warps, name=f"{name}, {dtype}, {what}")
        pointers = {"p_part": "*fp32", "p_g": f"*{dtype}", "p_xhat": f"*{dtype}"}
        signature = pointers | dict.fromkeys(("g_pixel", "xhat_pixel", "pixels", "slots"), "i32")
        for channels, block in ((16, 16), (36, 64)):
            constants = {"C": channels, "ALIGN": alignment(channels), "BP": 4096 // block, "BC": block}
            yield Variant(reduce, signature, constants, 4, name=f"C {channels}, {dtype}")
    pointers = {"p_first": "*fp32", "p_second": "*fp32", "p_part": "*fp32"}
    signature = {**pointers, "slots": "i32", "first": "i32", "size": "i32"}
    yield Variant(fold_sums, signature, {"BS": 256, "B": 32}, 8, main=False, name="256 slots")


VARIANTS: tuple[Variant, ...] = tuple(_variants())
