"""Faults of the data: splits, the order of images, augmentation, normalisation."""

from __future__ import annotations

from planted.mutant import Mutant, of

MUTANTS: list[Mutant] = [
    *of(
        "levels",
        "fastdarts/data/batches.py",
        "data_batches, data_levels",
        ("both have an image", "order[size:].clone()", "order[size - 1 :].clone()"),
        ("both have all", "return order[:size].clone(), order[size:].clone()", "return order.clone(), order.clone()"),
        (
            "not shuffled",
            "order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))",
            "order = torch.arange(count)",
        ),
    ),
    *of(
        "batches",
        "fastdarts/data/batches.py",
        "data_batches, data_cutout_prob",
        (
            "evaluation is augmented",
            "yield _packed(index, unmoved, unflipped, torch.zeros(count, 4, dtype=torch.int64))",
            "yield _packed(index, *self._draw(count))",
        ),
        (
            "evaluation leaves the last images out",
            "for index in self.indices.split(self.batch_size):",
            "for index in self.indices[: len(self) * self.batch_size].split(self.batch_size):",
        ),
        (
            "one order for all passes",
            "        self._order = self._draw_order(self._generator)\n",
            "        self._order = getattr(self, '_order', None) if hasattr(self, '_order') else self._draw_order(self._generator)\n",
        ),
        ("an order a batch too early", "if self._position == len(self):", "if self._position >= len(self) - 1:"),
        ("the crop never to the far side", "torch.randint(-crop, crop + 1,", "torch.randint(-crop, crop,"),
        (
            "height for width",
            "for axis, length in enumerate((height, width)):",
            "for axis, length in enumerate((height, height)):",
        ),
        ("a cutout that is not clipped", "(low + side).clamp(max=length)", "low.clamp(min=0) + side"),
        (
            "flips drawn from torch's generator",
            "torch.randint(2, (count,), generator=self._generator)",
            "torch.randint(2, (count,))",
        ),
        ("the mean not in units of the deviation", "shift = [-centre / value for", "shift = [-centre for"),
        (
            "normalised though it is",
            "if images.images.dtype == torch.float32:",
            "if images.images.dtype == torch.float16:",
        ),
        (
            "the pass begins again after a resumption",
            'state["pass_generator"].clone(), order, position',
            'state["pass_generator"].clone(), order, 0',
        ),
        ("crops after a resumption as at the pass' start", "self._generator = now", "self._generator = begin"),
        (
            "the pass after next is another",
            'self._pass_state, self._order, self._position = state["pass_generator"].clone(),',
            "self._pass_state, self._order, self._position = self._pass_state,",
        ),
        ("other images go unseen", '"images": self.images.fingerprint,', '"images": len(self.images),'),
        ("another split goes unseen", '"indices": _checksum(self.indices),', '"indices": len(self.indices),'),
        ("a caller's indices change it", "return chosen.clone()", "return chosen"),
    ),
    *of(
        "set",
        "fastdarts/data/imageset.py",
        "data_sets, data_batches, data_refusals",
        ("other labels go unseen", "for tensor in (self.images, self.labels):", "for tensor in (self.images,):"),
        (
            "a deviation over n - 1",
            "return mean, tuple(value / (255 * count) or 1.0",
            "return mean, tuple(value / (255 * count) * (count / max(count - 1, 1)) ** 0.5 or 1.0",
        ),
        (
            "a constant channel divides by 0",
            "tuple(value / (255 * count) or 1.0 for",
            "tuple(value / (255 * count) for",
        ),
    ),
    *of(
        "from_dataset",
        "fastdarts/data/dataset.py",
        "data_sets, data_refusals",
        (
            "normalised by the test set's statistics",
            "if like is None else (like.mean, like.std)",
            "if like is None or like.mean else (like.mean, like.std)",
        ),
    ),
    *of(
        "sources",
        "fastdarts/data/sources.py",
        "data_sets",
        ("statistics of the test part", "else channel_statistics(train)", "else channel_statistics(test)"),
    ),
    *of(
        "digits",
        "fastdarts/data/digits.py",
        "data_sets",
        ("images in both parts", "(images[~held_out], labels[~held_out])", "(images, labels)"),
        ("not by class", 'np.argsort(labels, kind="stable")[::5]', "np.arange(len(labels))[::5]"),
    ),
]
