"""Every primitive as a module against the oracle: outputs, every gradient, hostile shapes and layouts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import nn_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn import FactorizedReduce, Identity, ReLUConvBN, build_op
from fastdarts.spaces import PRIMITIVES

COMPUTED = [name for name, p in PRIMITIVES.items() if p.family not in ("activation", "noise")]
BUILT = [*COMPUTED, "noise"]
# N, C, H, W: one channel, one image, odd and non-square sides, a single row, a single pixel.
SHAPES = [(2, 1, 5, 7), (1, 3, 7, 4), (2, 2, 1, 5), (3, 2, 1, 1), (2, 5, 4, 4), (1, 1, 2, 2)]


def compared(name: str, shape: tuple[int, ...], stride: int, affine: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    op = build_op(name, shape[1], stride, affine, pool_bn=not affine)
    return op, {"x": oracle.images(*shape), **{f"op.{n}": v for n, v in oracle.weights_of(op).items()}}


def functions(name: str, op: nn.Module, stride: int, affine: bool):
    wrapped = nn.ModuleDict({"op": op})
    wrapped.forward = lambda x: op(x)
    return (
        oracle.called(wrapped, "x"),
        lambda named: oracle.primitive(name, named["x"], stride, named, "op", pool_bn=not affine),
    )


@pytest.mark.parametrize("affine", [False, True], ids=["search", "evaluation"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", COMPUTED)
def test_primitive_is_the_papers(name: str, stride: int, affine: bool) -> None:
    for shape in SHAPES:
        op, inputs = compared(name, shape, stride, affine)
        if torch.Size(shape).numel() // shape[1] // (stride**2) >= 2:
            oracle.assert_formula(*functions(name, op, stride, affine), inputs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", COMPUTED)
def test_primitive_rounds_as_plain_torch(name: str, stride: int) -> None:
    op, inputs = compared(name, (4, 6, 9, 8), stride, False)
    layer, by_hand = functions(name, op, stride, False)
    oracle.assert_rounding(layer, by_hand, inputs, eager=by_hand)


@given(
    name=st.sampled_from(COMPUTED),
    stride=st.sampled_from([1, 2]),
    affine=st.booleans(),
    shape=st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
)
def test_any_shape(name: str, stride: int, affine: bool, shape: tuple[int, ...]) -> None:
    op, inputs = compared(name, shape, stride, affine)
    x = inputs["x"]
    y = op.double()(x)
    assert y.shape == (*shape[:2], -(-shape[2] // stride), -(-shape[3] // stride))
    oracle.assert_formula(*functions(name, op, stride, affine), inputs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", COMPUTED)
def test_layouts_do_not_matter(name: str, stride: int) -> None:
    op, inputs = compared(name, (2, 3, 5, 6), stride, False)
    op.double()
    x = inputs["x"]
    padded = torch.full((2, 5, 8, 9), torch.nan, dtype=torch.float64)
    padded[:, 1:4, 2:7, 1:7] = x
    expected, gradient = _ones_gradient(op, x.clone())
    for layout in (x.to(memory_format=torch.channels_last), padded[:, 1:4, 2:7, 1:7], x.mT.clone().mT):
        y, g = _ones_gradient(op, layout)
        found, ref = {"output": y.float(), "gradient": g.float()}, {"output": expected, "gradient": gradient}
        oracle.assert_all_within(found, {key: value.float() for key, value in ref.items()}, ref, terms=1.0)


def _ones_gradient(op: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    # sum() sends an expanded gradient of stride 0; the square keeps batch norm from making it zero.
    x = x.detach().requires_grad_()
    y = op(x)
    (gradient,) = torch.autograd.grad(y.square().sum() + y.sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize("name", BUILT)
def test_no_dtype_slips_in(name: str) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        op = build_op(name, 2, 2, False, True).to(dtype)
        assert op(torch.ones(2, 2, 5, 5, dtype=dtype)).dtype == dtype


def test_search_has_batch_norm_after_pools_and_evaluation_has_not() -> None:
    keys = {pool_bn: list(build_op("avg_pool_3x3", 3, 1, False, pool_bn).state_dict()) for pool_bn in (True, False)}
    assert keys == {True: ["1.running_mean", "1.running_var", "1.num_batches_tracked"], False: []}
    norms = [
        m for name in COMPUTED for m in build_op(name, 4, 2, False, True).modules() if isinstance(m, nn.BatchNorm2d)
    ]
    assert len(norms) == 21 and not any(norm.affine for norm in norms)


def test_factorised_reduce_of_even_sizes_is_untouched_by_the_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    op = FactorizedReduce(4, 4)
    monkeypatch.setattr("torch.nn.functional.pad", lambda *_: pytest.fail("an even map was padded"))
    op(torch.randn(2, 4, 6, 8))


@pytest.mark.parametrize("build", [lambda: FactorizedReduce(4, 4), lambda: ReLUConvBN(4, 4, 1, 2, 0)])
@pytest.mark.parametrize("size", [(6, 5), (1, 1)])
def test_a_strided_pointwise_convolution_is_never_channels_last(
    build: Callable[[], nn.Module], size: tuple[int, int]
) -> None:
    """Torch's weight gradient of one writes past its memory on a CPU (oneDNN issue 6035)."""
    plain = build()
    op = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    for conv in (module for module in op.modules() if isinstance(module, nn.Conv2d)):
        conv.register_forward_pre_hook(lambda module, inputs: seen.extend([inputs[0], module.weight]))
    x = torch.randn(2, 4, *size).to(memory_format=torch.channels_last)
    assert x.stride(1) == 1 and x.stride(3) == 4
    first = x.clone(memory_format=torch.contiguous_format)
    eager, expected = plain(first), copy.deepcopy(plain).double()(first.double())
    assert_within("output", op(x), eager, expected)
    assert len(seen) in (2, 4) and all(each.stride(3) == 1 for each in seen)


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_factorised_reduce_of_odd_channels(channels: int) -> None:
    op = FactorizedReduce(2, channels)
    assert op(torch.randn(2, 2, 5, 3)).shape == (2, channels, 3, 2)
    assert op.conv_1.weight.shape[0] == channels - channels // 2
    halves = [key for key in op.state_dict() if key.startswith("conv_")]
    assert halves == ["conv_1.weight", "conv_2.weight"][: 1 + (channels > 1)]


def test_identity_and_zero() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    assert Identity()(x) is x
    y = build_op("none", 3, 2, False, True)(x)
    assert not y.any() and y.shape == (2, 3, 2, 3)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert not gradient.any()


def test_noise_is_seeded_and_carries_nothing_of_the_input() -> None:
    x = torch.full((64, 3, 9, 9), torch.nan, requires_grad=True)
    op = build_op("noise", 3, 2, False, True)
    torch.manual_seed(3)
    first, second = op(x), op(x)
    torch.manual_seed(3)
    assert torch.equal(op(x), first) and not torch.equal(first, second)
    assert first.shape == (64, 3, 5, 5) and not first.requires_grad
    assert abs(float(first.mean())) < 0.06 and abs(float(first.std()) - 1) < 0.05


def test_preprocessing_of_other_kernels() -> None:
    op = ReLUConvBN(3, 5, 3, 2, 1)
    inputs = {"x": oracle.images(2, 3, 5, 4), **{f"op.{n}": v for n, v in oracle.weights_of(op).items()}}
    wrapped = nn.ModuleDict({"op": op})
    wrapped.forward = lambda x: op(x)
    oracle.assert_formula(
        oracle.called(wrapped, "x"), lambda named: oracle.relu_conv_bn(named["x"], named, "op", 2), inputs
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv_9x9", 4, 1), "primitive 'conv_9x9' is no operation of a convolutional cell; expected one of none"),
        (("tanh", 4, 1), "primitive 'tanh'"),
        (("none", 0, 1), "channels is 0; expected at least 1"),
        (("none", 4, 3), "stride is 3; expected 1 or 2"),
    ],
)
def test_impossible_primitives(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build_op(*arguments, affine=False, pool_bn=True)


def test_channels_that_are_no_integer() -> None:
    with pytest.raises(TypeError, match=r"channels is 4\.0 of type float"):
        build_op("none", 4.0, 1, False, True)
