"""Shuffled, augmented batches whose exact sequence survives a restart."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.data.augmentation import Augmentation
from fastdarts.data.imageset import ImageSet
from fastdarts.errors import UserError
from fastdarts.ops import augment

__all__ = ["DRAWS", "Batches", "moved", "pinned", "split_levels"]

# Numbers that decide an image of a batch: its index, two offsets, whether it is mirrored, four sides of the cutout.
DRAWS = 8


def split_levels(count: int, portion: float, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Part a training set into the images of the weight level and those of the architecture level.

    Args:
        count: images in the training set.
        portion: share of the weight level, rounded down to whole images; 0 < portion < 1.
        seed: of the shuffle; the same seed gives the same parts on every platform.
        labels: [count], int64; every class is parted for itself, its share rounded down. None: the set as a whole.

    Returns:
        Two int64 index tensors without a common element, together 0 .. count - 1.

    Raises:
        UserError: where a part would be empty.

    Source: Liu et al. 2019, section 3.1: half of the training images each.
    """
    _check_seed(seed)
    size = int(count * portion) if 0 < portion < 1 else 0
    if not 0 < size < count:
        raise UserError(
            f"a portion of {portion} of {count} images leaves a level without images",
            "a portion between 0 and 1 that leaves at least one image to both levels",
            "0.5 is DARTS' choice",
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    if labels is None:
        return order[:size].clone(), order[size:].clone()
    shuffled = labels.cpu()[order]
    first = torch.zeros(count, dtype=torch.bool)
    for kind in shuffled.unique().tolist():
        of_kind = (shuffled == kind).nonzero().squeeze(1)
        first[of_kind[: int(len(of_kind) * portion)]] = True
    if not 0 < int(first.sum()) < count:
        raise UserError(
            f"a portion of {portion} of each class leaves a level without images",
            "classes of enough images that both levels get some",
        )
    return order[first], order[~first]


class Batches:
    """An endless, persistent stream of batches from a set that lives on the device.

    Every random number (order, crop offsets, flips, cutout centres) is drawn from this object's own generator on the
    CPU: the stream is the same on every device, depends on nothing else that draws, and continues exactly where
    :meth:`state_dict` was taken.

    Args:
        images: the set; it is moved to `device` once.
        indices: [n], int64; which images, None for all. Order counts where `shuffle` is False.
        batch_size: images a batch.
        seed: of the generator.
        device: where the batches are made.
        augmentation: of :meth:`next`; None for none.
        shuffle: a new order each pass; else index order.
        drop_last: leave out the pass' last batch where it is smaller than `batch_size`.

    Attributes:
        cutout_prob: probability, from 0 to 1, that an image gets the augmentation's cutout; 1 at first. It may be set
            between batches. Like a learning rate it belongs to a schedule and not to the stream: whoever sets it sets
            it again after :meth:`load_state_dict`. At 1 nothing more is drawn than ever, below 1 one number an image.

    Raises:
        UserError: for indices, a batch size, an augmentation, a seed or a probability that does not fit.
        TypeError: for an argument of another type.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Tensor | Sequence[int] | None = None,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        if not isinstance(images, ImageSet):
            raise TypeError(f"images is a {type(images).__name__}; expected an ImageSet, see from_dataset")
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {str(device)!r} is asked for, but torch sees no GPU", "a device that is there")
        self.indices = _check_indices(indices, len(images))
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        _check_batch_size(batch_size, len(self.indices), drop_last)
        self.augmentation = augmentation or Augmentation()
        _check_augmentation(self.augmentation, images)
        _check_seed(seed)
        self.images = images.to(self.device)
        self.cutout_prob = 1.0
        self._scale, self._shift = _normalisation(images, self.device)
        self._generator = torch.Generator().manual_seed(seed)
        self._begin_pass()

    @property
    def cutout_prob(self) -> float:
        """See the class."""
        return self._cutout_prob

    @cutout_prob.setter
    def cutout_prob(self, value: float) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"cutout_prob is a {type(value).__name__}; expected a float")
        if not 0.0 <= value <= 1.0:
            raise UserError(f"cutout_prob is {value}", "a probability from 0 to 1")
        self._cutout_prob = float(value)

    def __len__(self) -> int:
        """Batches that :meth:`next` gives in a pass."""
        count = len(self.indices)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch; past the end of the pass the first of a new one.

        Returns:
            x, [B, C, H, W], float32, augmented and normalised, and y, [B], int64, both on the device.
        """
        return self.make(moved(self.draw(), self.device))

    def once(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass for evaluation: not augmented, in index order, with the last, smaller batch; the stream stays.

        Yields:
            x and y as :meth:`next` returns them.
        """
        for draws in self.still():
            yield self.make(moved(draws, self.device))

    def draw(self) -> Tensor:
        """What decides the next batch; :meth:`make` makes it. The stream moves on.

        Returns:
            [DRAWS * B], int64, on the CPU: index [B], offset [B, 2], flip [B] and cutout [B, 4], as
            :func:`fastdarts.ops.augment` takes them, one after the other, so that one copy brings them to the device.
        """
        if self._position == len(self):
            self._begin_pass()
        start = self._position * self.batch_size
        index = self._order[start : start + self.batch_size]
        self._position += 1
        return _packed(index, *self._draw(len(index)))

    def still(self) -> Iterator[Tensor]:
        """What decides the batches of :meth:`once`, each as :meth:`draw` returns it."""
        for index in self.indices.split(self.batch_size):
            count = len(index)
            unmoved = torch.zeros(count, 2, dtype=torch.int64)
            unflipped = torch.zeros(count, dtype=torch.bool)
            yield _packed(index, unmoved, unflipped, torch.zeros(count, 4, dtype=torch.int64))

    def make(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of what was drawn; a GPU makes it without a word from the host, so a CUDA graph can hold it.

        Args:
            draws: [DRAWS * B], int64, on the device; from :meth:`draw` or :meth:`still`.

        Returns:
            x and y as :meth:`next` returns them.
        """
        count = len(draws) // DRAWS
        index, offset, flip, cutout = draws.split((count, 2 * count, count, 4 * count))
        x = augment(
            self.images.images, index, offset.view(-1, 2), flip.bool(), cutout.view(-1, 4), self._scale, self._shift
        )
        return x, self.images.labels.index_select(0, index)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: two generator states (uint8 tensors of 5 kB) and integers.

        The order of the current pass is not stored but drawn again from the generator's state at the pass' start;
        its checksum is kept, so that a torch that draws otherwise is noticed.
        """
        return self._identity() | {
            "position": self._position,
            "order": _checksum(self._order),
            "pass_generator": self._pass_state.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the stream that `state` was taken from; nothing changes where it is refused.

        Args:
            state: from :meth:`state_dict` of an object of the same images, indices, batch size, augmentation,
                shuffle and drop_last; the device may be another.

        Raises:
            UserError: for a state from another stream, or a damaged one.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise UserError(
                f"the batches' state has the entries {sorted(state)}", f"{sorted(own)}", "load one from state_dict()"
            )
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(
                    f"the batches' state was saved with {name} {state[name]}, this run has {value}",
                    "the settings and the data that the run began with",
                    f"restore {name}, or start a new run",
                )
        position = state["position"]
        if not isinstance(position, int) or not 0 <= position <= len(self):
            raise UserError(f"the batches' state is at batch {position!r}", f"0 to {len(self)}")
        begin, now = (_generator(name, state[name]) for name in ("pass_generator", "generator"))
        order = self._draw_order(begin)
        if _checksum(order) != state["order"]:
            raise UserError(
                "the batches' state gives another order of images than it was saved with",
                "the order that was saved",
                "resume with the version of torch that began the run",
            )
        self._pass_state, self._order, self._position = state["pass_generator"].clone(), order, position
        self._generator = now

    def resize(self, batch_size: int) -> None:
        """Go on with batches of another size: a new pass begins.

        Raises:
            UserError: more images than there are, less than one.
        """
        _check_batch_size(batch_size, len(self.indices), self.drop_last)
        self.batch_size = batch_size
        self._begin_pass()

    def _identity(self) -> dict[str, int]:
        return {
            "images": self.images.fingerprint,
            "indices": _checksum(self.indices),
            "batch_size": self.batch_size,
            "shuffle": int(self.shuffle),
            "drop_last": int(self.drop_last),
            "crop": self.augmentation.crop,
            "flip": int(self.augmentation.flip),
            "cutout": self.augmentation.cutout,
        }

    def _begin_pass(self) -> None:
        self._pass_state = self._generator.get_state()
        self._order = self._draw_order(self._generator)
        self._position = 0

    def _draw_order(self, generator: torch.Generator) -> Tensor:
        if not self.shuffle:
            return self.indices
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.images.images.shape[-2:]
        crop, side = self.augmentation.crop, self.augmentation.cutout
        offset = torch.zeros(count, 2, dtype=torch.int64)
        flip = torch.zeros(count, dtype=torch.bool)
        cutout = torch.zeros(count, 4, dtype=torch.int64)
        if crop:
            offset = torch.randint(-crop, crop + 1, (count, 2), generator=self._generator)
        if self.augmentation.flip:
            flip = torch.randint(2, (count,), generator=self._generator).bool()
        if side:
            for axis, length in enumerate((height, width)):
                low = torch.randint(length, (count,), generator=self._generator) - side // 2
                cutout[:, 2 * axis] = low.clamp(min=0)
                cutout[:, 2 * axis + 1] = (low + side).clamp(max=length)
            if self.cutout_prob < 1.0:
                cutout *= (torch.rand(count, 1, generator=self._generator) < self.cutout_prob).long()
        return offset, flip, cutout


def moved(numbers: Tensor, device: torch.device) -> Tensor:
    """What the host drew, on the device; the host does not wait for it."""
    return pinned(numbers, device).to(device, non_blocking=True)


def pinned(numbers: Tensor, device: torch.device) -> Tensor:
    """What the host drew, where a copy to the device need not be waited for.

    Torch keeps such memory until the copy was made, also when this tensor is gone.
    """
    return numbers.pin_memory() if device.type == "cuda" else numbers


def _packed(index: Tensor, offset: Tensor, flip: Tensor, cutout: Tensor) -> Tensor:
    return torch.cat([index, offset.flatten(), flip.to(torch.int64), cutout.flatten()])


def _normalisation(images: ImageSet, device: torch.device) -> tuple[Tensor, Tensor]:
    channels = images.images.shape[1]
    if images.images.dtype == torch.float32:
        scale, shift = [1.0] * channels, [0.0] * channels
    else:
        mean, std = images.mean or (0.0,) * channels, images.std or (1.0,) * channels
        scale = [1 / (255 * value) for value in std]
        shift = [-centre / value for centre, value in zip(mean, std, strict=True)]
    return torch.tensor(scale, device=device), torch.tensor(shift, device=device)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().data)


def _generator(name: str, state: Any) -> torch.Generator:
    generator = torch.Generator()
    try:
        return generator.set_state(state)
    except (TypeError, RuntimeError) as error:
        what = f"the batches' state holds no generator state in {name!r} ({error})"
        raise UserError(what, "a uint8 tensor from state_dict()") from error


def _check_indices(indices: Tensor | Sequence[int] | None, count: int) -> Tensor:
    if indices is None:
        return torch.arange(count)
    chosen = torch.as_tensor(indices).cpu()
    if not chosen.numel():
        raise UserError("the index set is empty", f"at least one of the {count} images")
    if chosen.dtype != torch.int64 or chosen.dim() != 1:
        raise UserError(f"the indices are {list(chosen.shape)}, {chosen.dtype}", "[n], torch.int64")
    low, high = (int(bound) for bound in torch.aminmax(chosen))
    if low < 0 or high >= count:
        raise UserError(f"the indices hold {low if low < 0 else high}", f"0 to {count - 1} for {count} images")
    # A copy: the caller may go on to change its own.
    return chosen.clone()


def _check_batch_size(batch_size: int, count: int, drop_last: bool) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool):
        raise TypeError(f"batch_size is a {type(batch_size).__name__}; expected an int")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}", "at least 1")
    if drop_last and batch_size > count:
        raise UserError(
            f"batch size {batch_size} is larger than the {count} images it is taken from",
            f"at most {count}, since a smaller last batch is left out (drop_last)",
            f"lower the batch size to {count} or less, or give this level more images",
        )


def _check_augmentation(augmentation: Augmentation, images: ImageSet) -> None:
    if not isinstance(augmentation, Augmentation):
        raise TypeError(f"augmentation is a {type(augmentation).__name__}; expected an Augmentation")
    height, width = images.images.shape[-2:]
    limits = {"crop": (augmentation.crop, min(height, width) - 1), "cutout": (augmentation.cutout, min(height, width))}
    for name, (value, limit) in limits.items():
        if value > limit:
            raise UserError(
                f"{name} {value} would blank whole images of {height}x{width} pixels",
                f"at most {limit}",
                f"lower {name}; {max(1, min(height, width) // (8 if name == 'crop' else 2))} is usual for this size",
            )


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed is a {type(seed).__name__}; expected an int")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed}", "0 to 2**63 - 1")
