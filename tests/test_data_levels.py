"""The two levels' images, and which augmentation a set gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.data import Augmentation, default_augmentation, names, split_levels
from fastdarts.errors import UserError


@given(count=st.integers(2, 300), portion=st.floats(0.01, 0.99), seed=st.integers(0, 2**63 - 1))
def test_levels_are_a_partition(count: int, portion: float, seed: int) -> None:
    if not 0 < int(count * portion) < count:
        with pytest.raises(UserError, match="without images"):
            split_levels(count, portion, seed)
        return
    weights, architecture = split_levels(count, portion, seed)
    assert len(weights) == int(count * portion)
    assert sorted([*weights.tolist(), *architecture.tolist()]) == list(range(count))
    assert weights.dtype == architecture.dtype == torch.int64


def test_levels_are_fixed_by_the_seed() -> None:
    first, second = split_levels(10, 0.5, 3)
    assert (first.tolist(), second.tolist()) == ([6, 0, 3, 7, 8], [5, 1, 9, 2, 4])
    assert split_levels(1000, 0.5, 3)[0].tolist() != split_levels(1000, 0.5, 4)[0].tolist()
    for portion in (0, 1, -0.5, 1.5, float("nan")):
        with pytest.raises(UserError, match=r"0\.5 is DARTS' choice"):
            split_levels(10, portion, 0)


def test_default_augmentation() -> None:
    assert {name: default_augmentation(name) for name in names()} == {
        "digits": Augmentation(1, False, 0),
        "cifar10": Augmentation(4, True, 0),
        "cifar100": Augmentation(4, True, 0),
        "svhn": Augmentation(4, False, 0),
        "mnist": Augmentation(2, False, 0),
        "fashion-mnist": Augmentation(2, True, 0),
    }
    assert default_augmentation("cifar10", cutout=16) == Augmentation(4, True, 16)
    assert default_augmentation("x-rays", cutout=2) == Augmentation(cutout=2)


def test_bad_augmentation() -> None:
    for wrong in ({"crop": -1}, {"cutout": -2}):
        with pytest.raises(UserError, match="expected pixels, 0 for none"):
            Augmentation(**wrong)
    for field, value in (("crop", 1.0), ("cutout", True), ("flip", 1)):
        with pytest.raises(TypeError, match=f"{field} is a"):
            Augmentation(**{field: value})  # type: ignore[arg-type]
