"""Batches: the order, the draws, the augmentation, and that a stream continues where it was left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise, product
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare
from torch import Tensor

from fastdarts.data import Augmentation, Batches, ImageSet
from fastdarts.errors import UserError

HEIGHT, WIDTH = 8, 6
MEAN, STD = (0.5, 0.25), (0.25, 0.5)
ALL = Augmentation(crop=2, flip=True, cutout=4)
Draw = tuple[int, int, bool, int | None, int | None]


def numbered(count: int = 32, *, floating: bool = False) -> ImageSet:
    """Every pixel of an image has another value, none of them 0; the label says which image it is."""
    pixels = torch.arange(1, 2 * HEIGHT * WIDTH + 1, dtype=torch.uint8).reshape(1, 2, HEIGHT, WIDTH)
    images = pixels.repeat(count, 1, 1, 1)
    if floating:
        return ImageSet("numbered", images / 7 - 3, torch.arange(count), count)
    return ImageSet("numbered", images, torch.arange(count), count, MEAN, STD)


def one_by_one(image: np.ndarray[Any, Any], draw: Draw, augmentation: Augmentation) -> np.ndarray[Any, Any]:
    """quark0's transforms of one image, in raw values; -1 where it is cut out."""
    top, left, mirrored, y, x = draw
    crop, side = augmentation.crop, augmentation.cutout
    padded = np.pad(image.astype(int), ((0, 0), (crop, crop), (crop, crop)))
    out = padded[:, top : top + HEIGHT, left : left + WIDTH]
    out = out[:, :, ::-1].copy() if mirrored else out.copy()
    if y is not None and x is not None:
        rows = slice(max(0, y - side // 2), max(0, y - side // 2 + side))
        columns = slice(max(0, x - side // 2), max(0, x - side // 2 + side))
        out[:, rows, columns] = -1
    return out


def raw(x: Tensor) -> np.ndarray[Any, Any]:
    """Raw values of normalised ones; -1 where x is exactly 0, which no raw value gives here."""
    mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, STD))
    values = (x * std + mean) * 255
    values = torch.where(x == 0, -1, values)
    assert (values - values.round()).abs().max() < 0.01
    return values.round().long().cpu().numpy()


def table(augmentation: Augmentation) -> dict[bytes, Draw]:
    """Every augmented form of the numbered image, and the draw that leads to it."""
    image = numbered(2).images[0].numpy()
    offsets = range(2 * augmentation.crop + 1)
    flips = (False, True) if augmentation.flip else (False,)
    rows = range(HEIGHT) if augmentation.cutout else (None,)
    columns = range(WIDTH) if augmentation.cutout else (None,)
    draws = list(product(offsets, offsets, flips, rows, columns))
    forms = {one_by_one(image, draw, augmentation).tobytes(): draw for draw in draws}
    assert len(forms) == len(draws), "every draw shows"
    return forms


def take(batches: Batches, count: int) -> list[tuple[Tensor, Tensor]]:
    return [batches.next() for _ in range(count)]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(first, second, strict=True)
    )


def labels(batches: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(crop=1),
        Augmentation(flip=True),
        Augmentation(cutout=4),
        Augmentation(cutout=3),
        Augmentation(cutout=1),
        ALL,
    ],
)
def test_augmented_as_one_by_one(augmentation: Augmentation) -> None:
    forms = table(augmentation)
    batches = Batches(numbered(), batch_size=8, seed=3, augmentation=augmentation)
    seen = {forms[image.tobytes()] for x, _ in take(batches, 20) for image in raw(x)}
    assert len(seen) > min(len(forms), 100) // 2


def test_draws_are_uniform_and_independent() -> None:
    forms = table(ALL)
    batches = Batches(numbered(), batch_size=32, seed=0, augmentation=ALL)
    draws = [forms[image.tobytes()] for x, _ in take(batches, 120) for image in raw(x)]
    for parts, cells in (
        ((0, 1), 25),
        ((3, 4), HEIGHT * WIDTH),
        ((0, 1, 2), 50),
        ((0, 3), 5 * HEIGHT),
        ((1, 4), 5 * WIDTH),
    ):
        counts = Counter(tuple(draw[part] for part in parts) for draw in draws)
        assert len(counts) == cells
        assert chisquare(list(counts.values())).pvalue > 1e-3
    assert binomtest(sum(draw[2] for draw in draws), len(draws)).pvalue > 1e-3
    following = Counter((draw[2], after[2]) for draw, after in pairwise(draws))
    assert chisquare(list(following.values())).pvalue > 1e-3


def test_normalisation() -> None:
    images = ImageSet(
        "all", torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8), torch.zeros(4).long(), 2, (0.3,), (0.2,)
    )
    ((x, _),) = Batches(images, batch_size=4, seed=0).once()
    exact = (images.images.double() / 255 - 0.3) / 0.2
    # Scale, shift, product and sum are each rounded once.
    terms = images.images.double() / 255 / 0.2 + 0.3 / 0.2
    assert ((x.double() - exact).abs() <= 4 * torch.finfo(torch.float32).eps * terms).all()
    plain = ImageSet("all", images.images, images.labels, 2)
    ((x, _),) = Batches(plain, batch_size=4, seed=0).once()
    assert torch.allclose(x, images.images / 255, rtol=1e-6, atol=0)


def test_float_images_stay_as_they_are() -> None:
    images = numbered(floating=True)
    batches = Batches(images, batch_size=4, seed=0)
    for x, y in [*take(batches, 8), *batches.once()]:
        assert torch.equal(x, images.images[y]) and x.dtype == torch.float32
    padded = Batches(images, batch_size=32, seed=0, augmentation=Augmentation(crop=2)).next()[0]
    assert (padded == 0).any() and not padded.isnan().any(), "outside is 0, not the lowest value"


@pytest.mark.parametrize("drop_last", [True, False])
def test_each_pass_is_a_permutation(drop_last: bool) -> None:
    indices = torch.tensor([3, 8, 9, 1, 22, 30, 31, 14, 2, 5])
    batches = Batches(numbered(), indices, batch_size=4, seed=0, drop_last=drop_last)
    assert len(batches) == (2 if drop_last else 3)
    passes = [list(chain(*labels(take(batches, len(batches))))) for _ in range(50)]
    for order in passes:
        assert len(set(order)) == len(order) == (8 if drop_last else 10)
        assert set(order) <= set(indices.tolist())
    assert len({tuple(order) for order in passes}) == 50
    # Over the passes nobody is left out for good.
    assert {image for order in passes for image in order} == set(indices.tolist())


@pytest.mark.parametrize("drop_last", [True, False])
def test_unshuffled(drop_last: bool) -> None:
    batches = Batches(numbered(), [4, 2, 7, 7, 0], batch_size=2, seed=0, shuffle=False, drop_last=drop_last)
    once = [[4, 2], [7, 7]] if drop_last else [[4, 2], [7, 7], [0]]
    assert labels(take(batches, 2 * len(batches))) == once + once


def test_once_is_plain_complete_and_leaves_the_stream() -> None:
    def make() -> Batches:
        return Batches(numbered(10), [9, 0, 4, 5, 1], batch_size=2, seed=5, augmentation=ALL)

    disturbed, still = make(), make()
    for _ in range(5):
        assert same(take(still, 1), take(disturbed, 1))
        passed = list(disturbed.once())
        assert labels(passed) == [[9, 0], [4, 5], [1]]
        for x, y in passed:
            assert np.array_equal(raw(x), numbered(10).images[y].numpy())
        next(disturbed.once())


def test_stream_is_its_own() -> None:
    """Neither the global generator nor another stream moves it, and it moves neither."""
    first, second = (Batches(numbered(), batch_size=8, seed=1, augmentation=ALL) for _ in range(2))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = take(first, 9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert same(one, take(second, 9))
    assert not same(one, take(Batches(numbered(), batch_size=8, seed=2, augmentation=ALL), 9))


def test_changing_the_indices_afterwards_changes_nothing() -> None:
    indices = torch.arange(8)
    batches = Batches(numbered(), indices, batch_size=8, seed=0)
    indices.zero_()
    assert sorted(batches.next()[1].tolist()) == list(range(8))


def test_the_same_stream_on_every_device(device: torch.device) -> None:
    here = Batches(numbered(), batch_size=8, seed=1, augmentation=ALL)
    there = Batches(numbered(), batch_size=8, seed=1, augmentation=ALL, device=device)
    for (x, y), (other_x, other_y) in zip(take(here, 6), take(there, 6), strict=True):
        assert other_x.device.type == other_y.device.type == device.type
        assert y.tolist() == other_y.tolist() and np.array_equal(raw(x), raw(other_x))


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """Through a safetensors file and a JSON file, as a checkpoint goes."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) < 20_000
    rest = json.loads(json.dumps({name: value for name, value in state.items() if name not in tensors}))
    assert all(type(value) is int for value in rest.values())
    return safetensors.torch.load(safetensors.torch.save(tensors)) | rest


@st.composite
def streams(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 20))
    chosen = draw(st.permutations(range(20)))[:count]
    return {
        "indices": chosen,
        "batch_size": draw(st.integers(1, count)),
        "shuffle": draw(st.booleans()),
        "drop_last": draw(st.booleans()),
        "augmentation": Augmentation(draw(st.integers(0, 2)), draw(st.booleans()), draw(st.integers(0, 4))),
    }


@given(settings=streams(), stop=st.integers(0, 45), seeds=st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 99)))
def test_continues_bit_for_bit(settings: dict[str, Any], stop: int, seeds: tuple[int, int]) -> None:
    images = numbered(20)
    begun = Batches(images, seed=seeds[0], **settings)
    take(begun, stop)
    state = begun.state_dict()
    kept = stored(state)
    ahead = 2 * len(begun) + 1
    rest = take(begun, ahead)
    assert kept.keys() == state.keys() and kept["position"] == state["position"], "the state is no view"
    resumed = Batches(numbered(20), seed=seeds[1], **settings)
    take(resumed, seeds[1] % 7)
    resumed.load_state_dict(kept)
    again = resumed.state_dict()
    assert all(torch.equal(torch.as_tensor(again[name]), torch.as_tensor(kept[name])) for name in kept), "stopped anew"
    assert same(rest, take(resumed, ahead))
    resumed.load_state_dict(state)
    assert same(rest, take(resumed, ahead))
    assert same([begun.next()], [resumed.next()])


def test_the_callers_indices_may_change() -> None:
    indices = torch.arange(8)
    batches = Batches(numbered(), indices, batch_size=4, seed=0, shuffle=False)
    indices.zero_()
    assert torch.cat([labels for _, labels in batches.once()]).tolist() == list(range(8))


def refused_states() -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    usual: dict[str, Any] = {"batch_size": 4, "indices": list(range(12)), "augmentation": ALL}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 3}, "saved with batch_size 4, this run has 3"),
        ({"indices": list(range(1, 13))}, "indices"),
        ({"indices": list(range(11))}, "indices"),
        ({"shuffle": False}, "shuffle 1, this run has 0"),
        ({"drop_last": False}, "drop_last 1, this run has 0"),
        ({"augmentation": Augmentation(1, True, 4)}, "crop 2, this run has 1"),
        ({"augmentation": Augmentation(2, False, 4)}, "flip 1, this run has 0"),
        ({"augmentation": None}, "crop 2, this run has 0"),
        ({"augmentation": Augmentation(2, True, 2)}, "cutout 4, this run has 2"),
    ]
    for change, message in changes:
        yield usual, usual | change, message


@pytest.mark.parametrize(("saved", "now", "message"), list(refused_states()))
def test_state_of_another_stream(saved: dict[str, Any], now: dict[str, Any], message: str) -> None:
    state = Batches(numbered(), seed=0, **saved).state_dict()
    batches, untouched = (Batches(numbered(), seed=1, **now) for _ in range(2))
    with pytest.raises(UserError, match=message):
        batches.load_state_dict(state)
    assert same(take(batches, 7), take(untouched, 7))


def test_state_of_other_images() -> None:
    state = Batches(numbered(), batch_size=4, seed=0).state_dict()
    pixel, label = numbered(), numbered()
    pixel.images[3, 0, 0, 0] += 1
    label.labels[3] = 0
    for other in (pixel, label, numbered(floating=True)):
        with pytest.raises(UserError, match="saved with images"):
            Batches(other, batch_size=4, seed=0).load_state_dict(state)


def damaged_states() -> dict[str, dict[str, Any]]:
    return {
        "is at batch": {"position": 9},
        "is at batch -1": {"position": -1},
        "is at batch '3'": {"position": "3"},
        "no generator state in 'generator'": {"generator": torch.zeros(5056, dtype=torch.uint8)},
        "no generator state in 'pass_generator'": {"pass_generator": torch.zeros(3)},
        "holds no generator": {"generator": 4},
        "another order of images": {"order": 17},
        "with the version of torch": {"pass_generator": torch.Generator().manual_seed(44).get_state()},
    }


@pytest.mark.parametrize("message", sorted(damaged_states()))
def test_damaged_state(message: str) -> None:
    batches, untouched = (Batches(numbered(), batch_size=4, seed=1) for _ in range(2))
    with pytest.raises(UserError, match=message):
        batches.load_state_dict(batches.state_dict() | damaged_states()[message])
    assert same(take(batches, 9), take(untouched, 9))


def test_state_with_other_entries() -> None:
    batches = Batches(numbered(), batch_size=4, seed=1)
    state = batches.state_dict()
    for wrong in ({}, state | {"more": 1}, {name: state[name] for name in state if name != "order"}):
        with pytest.raises(UserError, match="has the entries"):
            batches.load_state_dict(wrong)


def bad_arguments() -> dict[str, dict[str, Any]]:
    return {
        r"batch size 9 is larger than the 8 images.*at most 8.*lower the batch size": {
            "indices": range(8),
            "batch_size": 9,
        },
        "batch size 0; expected at least 1": {"batch_size": 0},
        "the index set is empty": {"indices": []},
        "the indices hold 32; expected 0 to 31": {"indices": [0, 32]},
        "the indices hold -1": {"indices": torch.tensor([5, -1])},
        r"the indices are \[2\], torch.float32": {"indices": torch.zeros(2)},
        r"the indices are \[2, 2\]": {"indices": torch.zeros(2, 2).long()},
        "seed -1": {"seed": -1},
        "crop 6 would blank whole images of 8x6 pixels; expected at most 5": {"augmentation": Augmentation(crop=6)},
        "cutout 16 would blank.*at most 6; lower cutout; 3 is usual": {"augmentation": Augmentation(cutout=16)},
    }


@pytest.mark.parametrize("message", sorted(bad_arguments()))
def test_bad_arguments(message: str) -> None:
    with pytest.raises(UserError, match=message):
        Batches(numbered(), **({"batch_size": 2, "seed": 0} | bad_arguments()[message]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", torch.zeros(3)), ("batch_size", 2.0), ("batch_size", True), ("seed", "1"), ("augmentation", 4)],
)
def test_wrong_types(name: str, value: object) -> None:
    arguments: dict[str, Any] = {"images": numbered(), "batch_size": 2, "seed": 0} | {name: value}
    with pytest.raises(TypeError, match=f"{name} is a {type(value).__name__}; expected"):
        Batches(**arguments)


def test_small_set_without_drop_last() -> None:
    batches = Batches(numbered(), [4, 5], batch_size=8, seed=0, drop_last=False)
    assert len(batches) == 1 and [sorted(batch) for batch in labels(take(batches, 2))] == [[4, 5], [4, 5]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="'cuda' is asked for"):
        Batches(numbered(), batch_size=2, seed=0, device="cuda")
