"""augment: the native kernel against the reference bit for bit, the reference against a loop over pixels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastdarts import _backend
from fastdarts.errors import UserError
from fastdarts.ops import augment
from fastdarts.reference.augment import augment as reference

FAR = 2**63 - 1
NAMES = ("images", "index", "offset", "flip", "cutout", "scale", "shift")


def inputs(
    shape: tuple[int, int, int, int] = (5, 3, 7, 9),
    batch: int = 6,
    dtype: torch.dtype = torch.uint8,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    count, channels, height, width = shape
    images = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    if dtype == torch.float32:
        images = torch.randn(shape, generator=draw)
    reach = max(height, width) + 2
    tensors = [
        images,
        torch.randint(0, count, (batch,), generator=draw),
        torch.randint(-reach, reach + 1, (batch, 2), generator=draw),
        torch.rand(batch, generator=draw) < 0.5,
        torch.randint(-2, reach, (batch, 4), generator=draw),
        torch.rand(channels, generator=draw) / 64 + 1e-3,
        torch.randn(channels, generator=draw),
    ]
    return [tensor.to(device) for tensor in tensors]


def pixel_by_pixel(images, index, offset, flip, cutout, scale, shift) -> Tensor:
    _, channels, height, width = images.shape
    out = torch.empty(len(index), channels, height, width)
    for b, image in enumerate(index.tolist()):
        (dy, dx), (y0, y1, x0, x1) = offset[b].tolist(), cutout[b].tolist()
        for y in range(height):
            for x in range(width):
                row, column = y + dy, (width - 1 - x if flip[b] else x) + dx
                inside = 0 <= row < height and 0 <= column < width
                raw = images[image, :, row, column].float() if inside else torch.zeros(channels)
                cut = y0 <= y < y1 and x0 <= x < x1
                out[b, :, y, x] = 0.0 if cut else raw * scale + shift
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (1, 1, 1, 1), (4, 1, 6, 3)])
def test_reference_is_the_definition(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    given = inputs(shape, dtype=dtype)
    assert torch.equal(reference(*given), pixel_by_pixel(*given))


def test_order_is_crop_flip_normalise_cutout() -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    padded = torch.nn.functional.pad(images[1], (2, 2, 2, 2))
    cropped = padded[:, 1 : 1 + 4, 3 : 3 + 5]  # torchvision's RandomCrop(padding=2) that drew (1, 3)
    expected = (cropped.flip(-1).double() / 255 - mean[:, None, None]) / std[:, None, None]
    expected[:, 0:2, 3:5] = 0.0
    one = torch.tensor([[1 - 2, 3 - 2]]), torch.tensor([True]), torch.tensor([[0, 2, 3, 5]])
    out = augment(images, torch.tensor([1]), *one, 1 / (255 * std), -mean / std)
    # float32 rounds the scale, the product and the sum, each by half a unit in the last place of a value below 2.
    assert (out[0] - expected).abs().max() <= 3 * torch.finfo(torch.float32).eps


def test_the_native_core_is_live_where_it_was_built() -> None:
    assert _backend.current_backend() == "cpu", _backend.native_failure()
    assert _backend.backend_for("augment", "cpu") == "cpu"


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    batch=st.integers(0, 9),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_backends_agree_bit_for_bit(
    shape: tuple[int, int, int, int], batch: int, dtype: torch.dtype, seed: int
) -> None:
    given = inputs(shape, batch, dtype, seed)
    outputs = {}
    for name in ("reference", "cpu"):
        with _backend.use_backend(name):
            outputs[name] = augment(*given)
    assert torch.equal(outputs["cpu"].view(torch.int32), outputs["reference"].view(torch.int32))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("offset", [(FAR, -FAR - 1), (-FAR - 1, FAR), (7, 0), (0, -9), (-7, 9)])
def test_an_offset_past_the_image_leaves_only_the_shift(backend: str, offset: tuple[int, int]) -> None:
    given = dict(zip(NAMES, inputs(), strict=True))
    given["offset"] = torch.tensor([offset] * 6)
    given["cutout"] = torch.tensor([[0, 0, 0, 0], [-FAR - 1, FAR, -FAR - 1, FAR], [3, 1, 0, 9]] * 2)
    with _backend.use_backend(backend):
        out = augment(**given)
    expected = given["shift"][None, :, None, None].expand(6, 3, 7, 9).clone()
    expected[1::3] = 0.0
    assert torch.equal(out, expected)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_bit(threads: int) -> None:
    given = inputs((9, 3, 32, 32), 256)  # 786,432 pixels: enough for the kernel to go parallel
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = augment(*given)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(out, reference(*given))


def test_calls_from_several_python_threads() -> None:
    batches = [inputs((9, 3, 32, 32), 48, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for given, out in zip(batches, pool.map(lambda given: augment(*given), batches), strict=True):
            assert torch.equal(out, reference(*given))


def test_views_are_read_where_they_lie() -> None:
    given = inputs((8, 3, 7, 9), 12)
    given[0] = given[0][2:]  # contiguous, with an offset into its storage
    given[1] = given[1] % 6
    strided = [given[0]] + [torch.stack([tensor, tensor], -1)[..., 0] for tensor in given[1:]]
    assert not strided[2].is_contiguous()
    assert torch.equal(augment(*strided), reference(*given))


def test_not_a_number_and_negative_zero_survive() -> None:
    given = inputs((1, 1, 1, 3), 1, torch.float32)
    given[0].copy_(torch.tensor([float("nan"), -0.0, float("inf")]).reshape(1, 1, 1, 3))
    given[2], given[3], given[4] = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([False]), torch.zeros(1, 4).long()
    given[5], given[6] = torch.ones(1), torch.full((1,), -0.0)
    out = augment(*given).flatten()
    assert out[0].isnan() and out[2] == float("inf") and torch.signbit(out[1])
    given[4] = torch.tensor([[0, 1, 0, 3]])
    assert torch.equal(augment(*given).flatten().view(torch.int32), torch.zeros(3, dtype=torch.int32))


def test_an_empty_batch_is_an_empty_tensor() -> None:
    assert augment(*inputs(batch=0)).shape == (0, 3, 7, 9)


def test_the_reference_computes_in_float64_when_asked() -> None:
    given = inputs(dtype=torch.float32)
    given[5], given[6] = given[5].double(), given[6].double()
    assert reference(*given).dtype == torch.float64


def test_devices(device: torch.device) -> None:
    out = augment(*inputs(device=device))
    assert out.device.type == device.type
    assert torch.equal(out.cpu(), reference(*inputs()))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (1, 1, 1, 1), (4, 1, 6, 3), (3, 4, 40, 33), (2, 3, 32, 32)])
def test_the_kernel_agrees_bit_for_bit(
    shape: tuple[int, int, int, int], dtype: torch.dtype, triton_device: torch.device
) -> None:
    given = inputs(shape, dtype=dtype)
    with _backend.use_backend("triton"):
        out = augment(*(tensor.to(triton_device) for tensor in given))
    assert out.device.type == triton_device.type and out.is_contiguous()
    assert torch.equal(out.cpu().view(torch.int32), reference(*given).view(torch.int32))


@pytest.mark.usefixtures("poisoned_memory")
def test_the_kernel_takes_far_offsets_and_cutouts(triton_device: torch.device) -> None:
    from fastdarts.ops import _augment_triton

    given = dict(zip(NAMES, inputs(), strict=True))
    far = [(FAR, -FAR - 1), (-FAR - 1, FAR), (7, 0), (0, -9), (-7, 9), (0, 0)]
    given["offset"] = torch.tensor(far)
    given["cutout"] = torch.tensor([[0, 0, 0, 0], [-FAR - 1, FAR, -FAR - 1, FAR], [3, 1, 0, 9]] * 2)
    out = _augment_triton.augment(**{name: tensor.to(triton_device) for name, tensor in given.items()})
    assert torch.equal(out.cpu(), reference(**given))


@pytest.mark.usefixtures("poisoned_memory")
def test_the_kernel_never_reads_an_image_that_is_not_there(triton_device: torch.device) -> None:
    """No wait for the host, no memory beyond the set's: the images that were asked for in vain are not a number."""
    from fastdarts.ops import _augment_triton

    given = dict(zip(NAMES, inputs(), strict=True))
    given["index"] = torch.tensor([0, -1, 4, 5, FAR, -FAR - 1])
    out = _augment_triton.augment(**{name: tensor.to(triton_device) for name, tensor in given.items()}).cpu()
    known = torch.tensor([True, False, True, False, False, False])
    assert out[~known].isnan().all()
    given["index"] = given["index"].where(known, 0)
    assert torch.equal(out[known], reference(**given)[known])


def test_the_kernel_takes_strided_draws_and_empty_batches(triton_device: torch.device) -> None:
    from fastdarts.ops import _augment_triton

    given = [tensor.to(triton_device) for tensor in inputs((8, 3, 7, 9), 12)]
    strided = [given[0]] + [torch.stack([tensor, tensor], -1)[..., 0] for tensor in given[1:]]
    assert torch.equal(_augment_triton.augment(*strided), reference(*given))
    empty = [tensor.to(triton_device) for tensor in inputs(batch=0)]
    assert _augment_triton.augment(*empty).shape == (0, 3, 7, 9)
    assert _augment_triton.augment(*(tensor.to("meta") for tensor in given)).shape == (12, 3, 7, 9)


def test_opcheck() -> None:
    for dtype in (torch.uint8, torch.float32):
        torch.library.opcheck(torch.ops.fastdarts.augment, tuple(inputs(dtype=dtype)))


def test_compiles_as_one_graph() -> None:
    given = inputs()
    compiled = torch.compile(lambda *args: augment(*args) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*given), reference(*given) * 2)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images", lambda t: t[0], r"images have shape \[3, 7, 9\]; expected \[N, C, H, W\]"),
        ("images", lambda t: t[:0], "each at least 1"),
        ("images", lambda t: t.mT, "images are not contiguous.*once, when loading"),
        ("images", lambda t: t.to(memory_format=torch.channels_last), "images are not contiguous"),
        ("images", lambda t: t.float().requires_grad_(), r"images requires gradients.*images.detach\(\)"),
        ("images", lambda t: t.to("meta"), "index is on cpu, images on meta"),
        ("index", lambda t: t[None], r"index has shape \[1, 6\]; expected \[B\]"),
        ("index", lambda t: t - 5, "index holds -[1-5]; expected 0 to 4 for 5 images"),
        ("index", lambda t: t + 5, "index holds [5-9]; expected 0 to 4"),
        ("offset", lambda t: t[:, :1], r"offset has shape \[6, 1\]; expected \[6, 2\]"),
        ("flip", lambda t: t[1:], r"flip has shape \[5\]; expected \[6\]"),
        ("cutout", lambda t: t[1:], r"cutout has shape \[5, 4\]; expected \[6, 4\]"),
        ("scale", lambda t: t[:1], r"scale has shape \[1\]; expected \[3\] for 6 indices and 3 channels"),
        ("shift", lambda t: t.repeat(2), r"shift has shape \[6\]; expected \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, message: str) -> None:
    given = dict(zip(NAMES, inputs(), strict=True))
    given[name] = change(given[name])
    for door in (augment, torch.ops.fastdarts.augment):
        with pytest.raises(UserError, match=message):
            door(**given)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images", lambda t: t.double(), "images is float64; expected uint8 or float32"),
        ("index", lambda t: t.int(), "index is int32; expected int64"),
        ("flip", lambda t: t.long(), "flip is int64; expected bool"),
        ("scale", lambda t: t.double(), "scale is float64; expected float32"),
        ("shift", lambda t: 1.0, "shift is a float; expected a torch.Tensor"),
    ],
)
def test_wrong_types_are_refused(name, change, message: str) -> None:
    given = dict(zip(NAMES, inputs(), strict=True))
    given[name] = change(given[name])
    with pytest.raises(TypeError, match=message):
        augment(**given)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"images": 0}, ValueError),
        ({"scale": 2}, ValueError),
        ({"threads": 0}, ValueError),
        ({"height": 0}, ValueError),
        ({"count": 1}, IndexError),
        ({"images": 1.5}, TypeError),
    ],
)
def test_the_native_function_guards_its_memory(change: dict[str, object], error: type[Exception]) -> None:
    core = _backend.native()
    given = dict(zip(NAMES, inputs(), strict=True))
    given["index"] = torch.full((6,), 4)
    out = torch.full((6, 3, 7, 9), -1.0)
    arguments = {name: tensor.data_ptr() for name, tensor in given.items()} | {"out": out.data_ptr()}
    sizes = {"count": 5, "channels": 3, "height": 7, "width": 9, "batch": 6, "threads": 1}
    with pytest.raises(error):
        core.augment_uint8(**(arguments | sizes | change))
    assert (out == -1).all()
