"""ImageSet, the digits, and sets made of a Dataset."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fastdarts.data import Batches, DataError, ImageSet, channel_statistics, from_dataset, load_images


def arguments(**changes: Any) -> dict[str, Any]:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    usual = {"name": "mine", "images": images, "labels": torch.tensor([0, 1, 2, 1]), "classes": 3}
    return usual | {"mean": (0.5,) * 3, "std": (0.2,) * 3} | changes


def floating(**changes: Any) -> dict[str, Any]:
    return arguments(images=torch.randn(4, 3, 5, 6), mean=None, std=None) | changes


def test_image_sets() -> None:
    for given in (arguments(), floating(), arguments(mean=None, std=None)):
        images = ImageSet(**given)
        assert len(images) == 4 and images.to("cpu") is images


def bad_sets() -> dict[str, dict[str, Any]]:
    broken = torch.randn(4, 3, 5, 6)
    broken[2, 0, 1, 1] = float("nan")
    infinite = torch.randn(4, 3, 5, 6)
    infinite[3, 0, 0, 0] = -float("inf")
    return {
        r"images of shape \[4, 5, 6\]; expected \[N, C, H, W\]": arguments(images=torch.zeros(4, 5, 6).byte()),
        r"images of shape \[0, 3, 5, 6\]": arguments(images=torch.zeros(0, 3, 5, 6).byte()),
        "images of torch.float64": floating(images=torch.randn(4, 3, 5, 6).double()),
        "images of torch.int64": arguments(images=torch.zeros(4, 3, 5, 6).long()),
        r"strides .*contiguous\(\)": arguments(images=torch.zeros(4, 3, 6, 5).byte().transpose(2, 3)),
        "a NaN or an infinity in image 2": floating(images=broken),
        "a NaN or an infinity in image 3": floating(images=infinite),
        "require gradients": floating(images=torch.randn(4, 3, 5, 6, requires_grad=True)),
        r"labels of shape \[3\], torch.int64": arguments(labels=torch.zeros(3).long()),
        r"labels of shape \[4\], torch.int32": arguments(labels=torch.zeros(4).int()),
        r"labels of shape \[4, 1\]": arguments(labels=torch.zeros(4, 1).long()),
        "labels on meta; expected cpu": arguments(labels=torch.zeros(4, device="meta").long()),
        "a label 3; expected 0 to 2": arguments(labels=torch.tensor([0, 1, 2, 3])),
        "a label -1": arguments(labels=torch.tensor([0, 1, 2, -1])),
        "classes=1": arguments(classes=1),
        "mean None; expected 3 finite": arguments(mean=None),
        "std None": arguments(std=None),
        r"std \(0.2, 0.2\)": arguments(std=(0.2, 0.2)),
        r"std \(0.2, 0.0, 0.2\); expected positive": arguments(std=(0.2, 0.0, 0.2)),
        "mean .*nan": arguments(mean=(0.1, float("nan"), 0.2)),
        "float32 images with mean and std": arguments(images=torch.randn(4, 3, 5, 6)),
    }


@pytest.mark.parametrize("message", sorted(bad_sets()))
def test_bad_sets(message: str) -> None:
    with pytest.raises(DataError, match=f"image set 'mine' has .*{message}"):
        ImageSet(**bad_sets()[message])


@pytest.mark.parametrize(
    ("field", "value"), [("images", np.zeros(3)), ("labels", [0, 1]), ("classes", "3"), ("name", 1)]
)
def test_wrong_types(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} is a {type(value).__name__}; expected"):
        ImageSet(**arguments(**{field: value}))


def test_fingerprint() -> None:
    given = arguments()
    known = ImageSet(**given).fingerprint
    assert ImageSet(**given).fingerprint == known
    changed = given["images"].clone()
    changed[1, 2, 3, 4] ^= 1
    others = (
        {"images": changed},
        {"labels": torch.tensor([1, 0, 2, 1])},
        {"images": given["images"].reshape(4, 3, 6, 5)},
        {"classes": 4},
    )
    prints = [ImageSet(**(given | other)).fingerprint for other in others]
    assert len({known, *prints}) == 5


def test_a_set_is_on_a_device_once(device: torch.device) -> None:
    images = ImageSet(**arguments())
    first, second = (Batches(images, batch_size=2, seed=seed, device=device) for seed in range(2))
    assert first.images.images.data_ptr() == second.images.images.data_ptr()
    assert first.images.images.device.type == device.type
    assert first.images.fingerprint == images.fingerprint


def test_channel_statistics() -> None:
    images = torch.randint(0, 256, (1500, 3, 4, 3), dtype=torch.uint8)
    images[:, 1] = 77
    mean, std = channel_statistics(images)
    values = images.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert std[0::2] == pytest.approx(values.std((0, 2, 3), correction=0)[0::2].tolist(), rel=1e-12)
    assert std[1] == 1.0, "a constant channel is not divided by nothing"
    with pytest.raises(TypeError, match=r"torch\.float32; expected torch\.uint8"):
        channel_statistics(values.float())


def digest(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def test_digits_split_is_fixed() -> None:
    train, test = load_images("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == (1, 8, 8) and train.images.dtype == torch.uint8
    assert digest(train.images, train.labels) == "b91746db64e14d19"
    assert digest(test.images, test.labels) == "83c99461e31a2576"
    assert (train.mean, train.std) == (test.mean, test.std) == channel_statistics(train.images)
    assert (train.classes, train.name) == (10, "digits")


def test_digits_are_all_there_once() -> None:
    theirs = load_digits()
    rows = np.concatenate([part.images.reshape(-1, 64).numpy() for part in load_images("digits")])
    expected = np.rint(theirs.data * 255 / 16).astype(np.uint8)
    assert set(np.unique(rows)) == {round(value * 255 / 16) for value in range(17)}, "all 17 levels stay apart"
    assert sorted(map(bytes, rows)) == sorted(map(bytes, expected))
    assert len(set(map(bytes, rows))) == 1797, "no image is there twice, so the parts are disjoint"


def test_digits_are_balanced() -> None:
    train, test = load_images("digits")
    whole = (train.labels.bincount() + test.labels.bincount()).double()
    assert (test.labels.bincount() - whole / 5).abs().max() < 1


class Squares(Dataset[Any]):
    """Images of any kind, made by a function."""

    def __init__(self, make: Any, count: int = 6) -> None:
        self.make, self.count, self.reads = make, count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> Any:
        self.reads += 1
        return self.make(at)


PIXELS = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda image: image,
        lambda image: image.numpy(),
        lambda image: image.movedim(0, -1).numpy(),
        lambda image: Image.fromarray(image.movedim(0, -1).numpy()),
        lambda image: image.expand(3, 5, 7),
    ],
    ids=["tensor", "array", "array, channels last", "PIL", "view"],
)
@pytest.mark.parametrize(
    "label", [int, np.int32, np.uint8, torch.tensor, np.array], ids=["int", "int32", "uint8", "tensor", "array"]
)
def test_from_dataset(make: Any, label: Any) -> None:
    dataset = Squares(lambda at: (make(PIXELS[at]), label(at % 3)))
    got = from_dataset(dataset, name="squares", classes=3)
    assert torch.equal(got.images, PIXELS) and got.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert (got.mean, got.std) == channel_statistics(PIXELS) and got.name == "squares"
    assert dataset.reads == 6, "each item is read once"


@pytest.mark.parametrize(
    "make",
    [lambda image: image, lambda image: Image.fromarray(image.numpy()), lambda image: image.numpy()[..., None]],
    ids=["tensor", "PIL", "array, channels last"],
)
def test_grey_images(make: Any) -> None:
    got = from_dataset(Squares(lambda at: (make(PIXELS[at, 0]), 0)), name="grey", classes=2)
    assert torch.equal(got.images, PIXELS[:, :1])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4", torch.float64, torch.bfloat16])
def test_floating_images_are_kept(kind: Any) -> None:
    def make(at: int) -> tuple[Any, int]:
        values = PIXELS[at] / 256
        return (values.to(kind) if isinstance(kind, torch.dtype) else values.numpy().astype(kind)), 0

    got = from_dataset(Squares(make), name="f", classes=2)
    assert got.images.dtype == torch.float32 and got.mean is got.std is None
    assert torch.equal(got.images, PIXELS / 256)


def test_test_set_like_the_training_set() -> None:
    train = from_dataset(TensorDataset(PIXELS[:4], torch.tensor([0, 1, 0, 1])), name="train", classes=2)
    test = from_dataset([(PIXELS[4], 0), (PIXELS[5], 1)], name="test", classes=2, like=train)
    assert (test.mean, test.std) == (train.mean, train.std)
    assert channel_statistics(test.images) != (train.mean, train.std)
    with pytest.raises(DataError, match=r"\[3, 4, 7\] uint8; expected \[3, 5, 7\] uint8 as in 'train'"):
        from_dataset([(PIXELS[4, :, :4], 0)], name="test", classes=2, like=train)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(PIXELS[0], 0)])


def test_what_is_no_map() -> None:
    with pytest.raises(DataError, match=r"Stream can only be iterated.*pass list\(dataset\)"):
        from_dataset(Stream(), name="s", classes=2)
    assert len(from_dataset(list(Stream()), name="s", classes=2)) == 1
    for other in (3, iter([(PIXELS[0], 0)]), object()):
        with pytest.raises(TypeError, match="expected a map-style data set"):
            from_dataset(other, name="s", classes=2)
    with pytest.raises(DataError, match="is empty"):
        from_dataset([], name="s", classes=2)


def bad_items() -> dict[str, Any]:
    good = (PIXELS[0], 0)
    return {
        r"an image of \[3, 5, 6\] uint8 at 1; expected \[3, 5, 7\] uint8 as at 0": [good, (PIXELS[1, :, :, :6], 0)],
        r"an image of \[3, 5, 7\] float32 at 1": [good, (PIXELS[1].float(), 0)],
        "the label 2 at 1; expected 0 to 1": [good, (PIXELS[1], 2)],
        "the label -1 at 1": [good, (PIXELS[1], -1)],
        "a label of type float at 0": [(PIXELS[0], 1.0)],
        "a label of type Tensor at 0": [(PIXELS[0], torch.tensor([0, 1]))],
        "a label of type str at 1": [good, (PIXELS[1], "cat")],
        "a Tensor at 0; expected a pair": [PIXELS[0]],
        "a tuple at 1; expected a pair": [good, (PIXELS[1], 0, 0)],
        "at 0: an image of torch.int64": [(PIXELS[0].long(), 0)],
        "at 0: a ndarray of uint16": [(PIXELS[0].numpy().astype(np.uint16), 0)],
        "at 0: a str of <U1": [("x", 0)],
        "at 0: a NoneType of object": [(None, 0)],
        r"at 1: an image of shape \[5\]": [good, (PIXELS[0, 0, :, 0], 0)],
        r"at 0: an image of shape \[2, 3, 5, 7\]": [(PIXELS[:2].numpy(), 0)],
        "at 0: an array .*channels first or last": [(np.zeros((9, 5, 7), dtype=np.uint8), 0)],
        r"at 0: a palette image.*convert\('RGB'\)": [(Image.new("P", (5, 5)), 0)],
        "at 0: a Image of bool": [(Image.new("1", (5, 5)), 0)],
        "a NaN or an infinity in image 1": [(PIXELS[0].float(), 0), (PIXELS[0].float() / 0, 0)],
    }


@pytest.mark.parametrize("message", sorted(bad_items()))
def test_bad_items(message: str) -> None:
    with pytest.raises(DataError, match=f"set 's' {message}|set 's' has {message}"):
        from_dataset(bad_items()[message], name="s", classes=2)
