"""The probability of a cutout: who gets one, that nothing else of the stream changes, and that it continues."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from fastdarts.data import Augmentation, Batches, ImageSet
from fastdarts.errors import UserError

COUNT, HEIGHT, WIDTH = 24, 8, 6
ALL = Augmentation(crop=2, flip=True, cutout=4)


def batches(*, augmentation: Augmentation = ALL, seed: int = 3, batch_size: int = 8) -> Batches:
    pixels = torch.randint(1, 255, (COUNT, 1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    images = ImageSet("noise", pixels.to(torch.uint8), torch.arange(COUNT), COUNT, (0.5,), (0.25,))
    return Batches(images, batch_size=batch_size, seed=seed, augmentation=augmentation)


def by_hand(steps: int, probability: float, *, seed: int = 3, batch: int = 8) -> list[list[Tensor]]:
    """Index, offset, flip and cutout of each step, drawn as the class says: positions first, then who keeps them."""
    generator = torch.Generator().manual_seed(seed)
    drawn, order = [], torch.randperm(COUNT, generator=generator)
    for step in range(steps):
        if step and step % (COUNT // batch) == 0:
            order = torch.randperm(COUNT, generator=generator)
        index = order[step % (COUNT // batch) * batch :][:batch]
        offset = torch.randint(-2, 3, (batch, 2), generator=generator)
        flip = torch.randint(2, (batch,), generator=generator)
        corners = [torch.randint(size, (batch,), generator=generator).tolist() for size in (HEIGHT, WIDTH)]
        lucky = [True] * batch
        if probability < 1:
            lucky = [number < probability for number in torch.rand(batch, generator=generator).tolist()]
        cutout = [
            [max(0, y - 2), min(HEIGHT, y + 2), max(0, x - 2), min(WIDTH, x + 2)] if cut else [0, 0, 0, 0]
            for y, x, cut in zip(*corners, lucky, strict=True)
        ]
        drawn.append([index, offset.flatten(), flip, torch.tensor(cutout).flatten()])
    return drawn


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_stream_is_as_drawn_by_hand(probability: float) -> None:
    stream = batches()
    assert stream.cutout_prob == 1.0
    stream.cutout_prob = probability
    for expected in by_hand(7, probability):
        assert torch.equal(stream.draw(), torch.cat(expected))


def test_who_is_cut_is_a_fair_draw_for_each_image() -> None:
    stream, cut, images = batches(), 0, 0
    stream.cutout_prob = 0.3
    seen = set()
    for _ in range(150):
        squares = stream.draw()[4 * 8 :].view(-1, 4)
        own = (squares[:, 1] > 0).tolist()
        cut, images = cut + sum(own), images + len(own)
        seen.add(tuple(own))
    assert binomtest(cut, images, 0.3).pvalue > 1e-3
    assert len(seen) > 40, "images of one batch are cut independently"


def test_an_image_without_its_cutout_is_whole() -> None:
    plain, never = batches(augmentation=Augmentation()), batches(augmentation=Augmentation(cutout=4))
    never.cutout_prob = 0.0
    (expected, labels), (found, own) = plain.next(), never.next()
    assert torch.equal(labels, own) and torch.equal(expected, found)
    always = batches(augmentation=Augmentation(cutout=4)).next()[0]
    assert (always == 0).flatten(1).any(1).all() and not (found == 0).any()


def test_nothing_is_drawn_for_a_cutout_that_is_not_there() -> None:
    streams = [batches(augmentation=Augmentation(crop=2, flip=True)) for _ in range(2)]
    streams[0].cutout_prob = 0.5
    assert all(torch.equal(*(stream.draw() for stream in streams)) for _ in range(5))


@pytest.mark.parametrize("before", [1, 3, 4])
def test_a_ramp_continues_where_it_was_left(before: int) -> None:
    ramp = [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0]
    whole, first, second = batches(), batches(), batches(seed=99)

    def run(stream: Batches, steps: slice) -> list[Tensor]:
        found = []
        for probability in ramp[steps]:
            stream.cutout_prob = probability
            found.append(stream.draw())
        return found

    expected = run(whole, slice(None))
    found = run(first, slice(before))
    state = first.state_dict()
    assert not any("prob" in name for name in state), "the schedule is the driver's, and old checkpoints have no entry"
    second.load_state_dict(state)
    found += run(second, slice(before, None))
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(value: float) -> None:
    stream = batches()
    with pytest.raises(UserError, match=r"cutout_prob is .*; expected a probability from 0 to 1"):
        stream.cutout_prob = value
    assert stream.cutout_prob == 1.0


@pytest.mark.parametrize("value", [True, "0.5", None], ids=repr)
def test_what_is_no_number_is_refused(value: object) -> None:
    stream = batches()
    with pytest.raises(TypeError, match=r"cutout_prob is a \w+; expected a float"):
        stream.cutout_prob = value
