"""Running statistics: as `nn.BatchNorm2d` moves them, in one launch."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.ops import track_
from fastdarts.reference.track import track_ as reference


def given(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    mean, batch_mean = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=torch.float64)
    var, batch_var = mean.square() + 0.1, batch_mean.square() + 0.1
    batches = torch.randint(9, shape[:-1])
    return [each.to(device) for each in (mean, var, batches, batch_mean, batch_var)]


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1,), (7,), (5, 3), (90, 16)], ids=str)
def test_is_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, momentum: float, triton_device: torch.device
) -> None:
    own, wanted, exact = ([each.clone() for each in given(shape, dtype, triton_device)] for _ in range(3))
    for to, of in zip((*own, *exact), (*wanted, *wanted), strict=True):
        to.copy_(of)
    exact[:2] = [each.double() for each in exact[:2]]
    with use_backend("triton"):
        track_(*own, momentum=momentum, unbiased=1.25)
    for arguments in (wanted, exact):
        reference(*arguments, momentum=momentum, unbiased=1.25)
    assert torch.equal(own[2], wanted[2])
    for name, k in (("mean", 0), ("var", 1)):
        assert_within(name, own[k], wanted[k], exact[k])


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_is_batch_norm(backend: str) -> None:
    norm, x = nn.BatchNorm2d(3, affine=False).double(), torch.randn(4, 3, 5, 2, dtype=torch.float64)
    own = [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]
    norm(x)
    batch = [x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)]
    with use_backend(backend):
        track_(*own, *batch, momentum=0.1, unbiased=40 / 39)
    torch.testing.assert_close(own, [norm.running_mean, norm.running_var, norm.num_batches_tracked])


def test_rows_of_a_larger_buffer_are_written_and_nothing_beside() -> None:
    mean, var, batches, batch_mean, batch_var = given((5, 3), torch.float32, torch.device("cpu"))
    before = mean.clone()
    with use_backend("triton"):
        track_(mean[1:3], var[1:3], batches[1:3], batch_mean[1:3], batch_var[1:3], momentum=0.5, unbiased=1.0)
    assert torch.equal(mean[[0, 3, 4]], before[[0, 3, 4]]) and not torch.equal(mean[1:3], before[1:3])


def test_opcheck(triton_device: torch.device) -> None:
    arguments = given((5, 3), torch.float32, triton_device)
    torch.library.opcheck(torch.ops.fastdarts.track_, tuple(arguments), {"momentum": 0.1, "unbiased": 1.1})


@pytest.mark.parametrize(
    ("place", "change", "error", "message"),
    [
        (0, lambda t: t[0], UserError, "mean has shape .*expected .B, C. and .B."),
        (1, lambda t: t[:, :2], UserError, "var has shape .*as mean"),
        (1, lambda t: t.double(), TypeError, "var is float64; expected float32"),
        (3, lambda t: t.float(), TypeError, "batch_mean is float32; expected float64"),
        (2, lambda t: t.float(), TypeError, "batches is float32; expected int64"),
        (4, lambda t: t.to("meta"), UserError, "batch_var is on meta"),
        (4, lambda t: 1.0, TypeError, "batch_var is a float"),
    ],
)
def test_what_does_not_fit_is_refused(place: int, change: object, error: type[Exception], message: str) -> None:
    arguments = given((5, 3), torch.float32, torch.device("cpu"))
    arguments[place] = change(arguments[place])
    with pytest.raises(error, match=message):
        track_(*arguments, momentum=0.1, unbiased=1.0)
