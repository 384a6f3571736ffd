"""The evaluation phase: the derived network trained from scratch, and the test set read once, at the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts._backend import use_backend
from fastdarts.data import Augmentation, Batches, ImageSet, default_augmentation, load_images
from fastdarts.errors import UserError
from fastdarts.nn import DerivedNetwork
from fastdarts.runs import Checkpoint, RunFolder
from fastdarts.search.config import check_fields, config_from_json
from fastdarts.search.divergence import WORST, check_losses
from fastdarts.search.environment import (
    describe_environment,
    reopened,
    reproducible,
    resolve_device,
    seed_everything,
)
from fastdarts.search.extension import returned
from fastdarts.search.figures import check_batch, evaluate
from fastdarts.search.interrupt import stoppable
from fastdarts.search.origin import describe_origin
from fastdarts.search.progress import Progress, watcher
from fastdarts.search.runner import run_job
from fastdarts.search.schedule import cosine
from fastdarts.search.step import accuracy, descend
from fastdarts.spaces import Genotype, parse_genotype

__all__ = [
    "RetrainConfig",
    "RetrainJob",
    "Sets",
    "begun",
    "budget",
    "continue_retrain",
    "images_of",
    "retrain",
    "retrain_once",
]


@dataclass(frozen=True)
class RetrainConfig:
    """The hyper-parameters of the evaluation phase; the defaults are DARTS' for CIFAR-10 (section 3.2).

    Args:
        genotype: the genotype's text.
        data, data_root, seed, device, backend, threads, save_every, crop, flip: as for the search.
        epochs: passes over the whole training set.
        batch_size: images per step.
        channels: C, the width of the first cells.
        layers: number of cells; a genotype of one cell a layer has its own number and takes no other.
        auxiliary: weight of the auxiliary head's loss, 0 for no head.
        drop_path: probability of dropping a path in the last epoch; it rises linearly from 0.
        label_smoothing: of the cross-entropy (ImageNet: 0.1).
        cutout: side in pixels of the square set to zero, 0 for none.
        lr, lr_min: cosine from the one to the other.
        momentum, weight_decay, grad_clip: of SGD.
    """

    genotype: str
    data: str = "cifar10"
    data_root: str | None = None
    seed: int = 0
    epochs: int = 600
    batch_size: int = 96
    channels: int = 36
    layers: int = 20
    auxiliary: float = 0.4
    drop_path: float = 0.2
    label_smoothing: float = 0.0
    crop: int = 4
    flip: bool = True
    cutout: int = 16
    lr: float = 0.025
    lr_min: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0
    device: str = "auto"
    backend: str = "auto"
    threads: int = 0
    save_every: int = 1

    def __post_init__(self) -> None:
        own = parse_genotype(self.genotype).layers
        if own is not None and self.layers != own:
            raise UserError(f"layers is {self.layers} for a genotype of {own} cells", f"{own}, or layers left out")
        check_fields(
            self,
            at_least_one=("epochs", "batch_size", "channels", "layers", "save_every"),
            not_negative=(
                "seed",
                "crop",
                "cutout",
                "auxiliary",
                "lr",
                "lr_min",
                "weight_decay",
                "grad_clip",
                "threads",
            ),
            fractions=("momentum", "drop_path", "label_smoothing"),
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RetrainConfig:
        """The configuration of a run folder; unknown and missing fields are refused."""
        config: RetrainConfig = config_from_json(cls, values)
        return config


# A minute or less per network on two cores; the head and drop-path are for 600 epochs, not for 15.
_DIGITS: dict[str, Any] = {"epochs": 15, "batch_size": 64, "channels": 8, "layers": 3, "auxiliary": 0.0}
_DIGITS |= {"drop_path": 0.0, "cutout": 0, "threads": 1}


def budget(data: str = "digits", *, found: Genotype | None = None, **overrides: Any) -> dict[str, Any]:
    """The fields of :class:`RetrainConfig` without the genotype: the published budget, or a small one for digits.

    Args:
        data: a data set's name, or ``custom`` for images given from Python, which are neither cropped nor flipped
            nor cut out.
        found: the genotype, which decides the number of layers where it has one cell a layer.
        overrides: any other fields of :class:`RetrainConfig`.

    Raises:
        UserError: for an unknown field.
    """
    known = [field.name for field in dataclasses.fields(RetrainConfig) if field.name not in ("genotype", "data")]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}", f"one of {', '.join(known)}")
    augmentation = default_augmentation(data)
    values: dict[str, Any] = {"data": data, "crop": augmentation.crop, "flip": augmentation.flip}
    if data == "digits":
        values |= _DIGITS
    elif data == "custom":
        values["cutout"] = 0
    if found is not None and found.layers is not None:
        values["layers"] = found.layers
    return values | overrides


Sets = tuple[ImageSet, ImageSet]


def retrain(
    config: RetrainConfig,
    path: str | os.PathLike[str],
    *,
    sets: Sets | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Train the derived network of a genotype in a new run folder and test it once.

    Args:
        config: the genotype and the budget; :func:`budget` gives the published one.
        path: the run folder to create.
        sets: (training, test) images for ``config.data == "custom"``.
        progress: who watches; None for a bar in a terminal and silence elsewhere, ``Progress()`` for silence.
        command: how the run was started, for the record.

    Returns:
        The record that is also written to ``retrain.json``: accuracies as fractions, parameters, seconds.

    Raises:
        UserError: for a bad configuration, before anything is written.
        Diverged: where the losses say that there is no result (:mod:`fastdarts.search.divergence`).
        Interrupted: on SIGINT or SIGTERM; continue with :func:`continue_retrain`.
    """
    if parse_genotype(config.genotype).layers is None and config.layers < 3:
        raise UserError(
            f"a network of {config.layers} cells has no normal cell, so half of the genotype would not be used",
            "at least 3 layers",
            "the cells at one third and two thirds of the depth are reduction cells",
        )
    with use_backend(config.backend):
        job = RetrainJob(config, images_of(config, sets))
        record = {"kind": "retrain", "config": dataclasses.asdict(config), "command": command}
        record |= {"environment": describe_environment(job.device, config.threads), "origin": describe_origin()}
        with RunFolder.create(path, record) as folder:
            return job.run(folder, watcher(progress))


def continue_retrain(
    path: str | os.PathLike[str],
    *,
    sets: Sets | None = None,
    previous: bool = False,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Continue a training from its newest checkpoint (or the one before), bit for bit, or extend a finished one.

    Args:
        path: the run folder.
        sets: the same images as before, for custom data.
        previous: use the checkpoint before the newest one.
        epochs: extend a finished training to so many, as :func:`fastdarts.search.resume` does; it is tested again.
        progress: who watches.

    Raises:
        UserError: for a folder that is no retraining, a checkpoint that is damaged or from elsewhere, records that
            would be lost since the checkpoints were removed, or a training that cannot be extended.
    """
    progress = watcher(progress)
    with reopened(path, "retrain", RetrainConfig.from_json) as (folder, configured):
        back = returned(folder, configured, "retrain.json", previous=previous, epochs=epochs, progress=progress)
        if back.result is not None:
            return dict(back.result)
        job = RetrainJob(back.config, images_of(back.config, sets))
        return job.run(folder, progress, back.checkpoint, back.extension)


def retrain_once(
    config: RetrainConfig, path: Path, *, sets: Sets | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """The result of a retraining in ``path``: read if it is finished, else continued or started.

    Args:
        config, sets, progress: as for :func:`retrain`; a run that is there already has its own ``config``.
        path: the run folder, there or not.

    Raises:
        UserError, Diverged, Interrupted: as :func:`retrain` and :func:`continue_retrain` do.
    """
    if not begun(path):
        return retrain(config, path, sets=sets, progress=progress)
    if (path / "retrain.json").exists():
        found: dict[str, Any] = RunFolder.open(path).read_json("retrain.json", ("test_accuracy", "parameters", "text"))
        if found.get("epochs", config.epochs) != config.epochs:
            what = f"{path} was extended to {found['epochs']} epochs"
            raise UserError(what, f"a training of {config.epochs}, as the others", "name another folder (--run)")
        return found
    return continue_retrain(path, sets=sets, progress=progress)


def begun(path: Path) -> bool:
    """Whether ``path`` is a run; what a kill during its creation leaves behind is none yet."""
    return (path / "config.json").exists()


def images_of(config: RetrainConfig, given: Sets | None) -> Sets:
    """The (training, test) images of a configuration, ``given`` where its data are custom.

    Raises:
        UserError: for images without need or none where they are needed, or a test set that does not fit the training
            set, which would otherwise be noticed when the training is over, or never.
    """
    if (config.data == "custom") != (given is not None):
        raise UserError(
            f"data {config.data!r} {'without' if given is None else 'with'} sets of images",
            "sets for data 'custom', and for no other data",
            "give your own images from Python: retrain(..., sets=), compare(..., sets=)",
        )
    if given is None:
        return load_images(config.data, config.data_root)
    train, test = (
        {
            "images of": f"{list(each.images.shape[1:])} {each.images.dtype}",
            "classes": each.classes,
            "mean": each.mean,
            "std": each.std,
        }
        for each in given
    )
    for name, value in train.items():
        if test[name] != value:
            raise UserError(
                f"the test set has {name} {test[name]}", f"{value} as the training set", "from_dataset(..., like=train)"
            )
    return given


class RetrainJob:
    """The evaluation's training as :func:`fastdarts.search.runner.run_job` drives it."""

    def __init__(self, config: RetrainConfig, sets: Sets) -> None:
        self.config, self.title = config, "retrain"
        self.genotype: Genotype = parse_genotype(config.genotype)
        train, self.test_set = sets
        self.device = resolve_device(config.device)
        self.epochs = config.epochs
        self.train = Batches(
            train,
            batch_size=config.batch_size,
            seed=config.seed,
            device=self.device,
            augmentation=Augmentation(config.crop, config.flip, config.cutout),
        )
        self.steps = len(self.train)
        seed_everything(config.seed)
        self.model = DerivedNetwork(
            self.genotype,
            channels=config.channels,
            layers=config.layers,
            classes=train.classes,
            in_channels=train.images.shape[1],
            auxiliary=config.auxiliary > 0,
        )
        check_batch(self.model, train, config.batch_size)
        self.model.to(self.device)
        self.weights = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(
            self.weights, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def run(
        self,
        folder: RunFolder,
        progress: Progress,
        checkpoint: Checkpoint | None = None,
        extension: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Train to the end, test once, write and return the result."""
        name = folder.path.name
        self.title = name if name.startswith("retrain") else f"retrain {name}"
        with stoppable(folder.path):
            with reproducible(self.device, self.config.threads):
                every = self.config.save_every
                run_job(self, folder, progress=progress, checkpoint=checkpoint, extension=extension, save_every=every)
                test = Batches(
                    self.test_set,
                    batch_size=self.config.batch_size,
                    device=self.device,
                    seed=0,
                    shuffle=False,
                    drop_last=False,
                )
                test_loss, test_accuracy = evaluate(self.model, test.once())
            history = [record for record in folder.metrics() if record["kind"] == "epoch"]
            check_losses(history[-1] | {"test_loss": test_loss}, folder.path, worst=WORST)
            body = (weight.numel() for name, weight in self.model.named_parameters() if "auxiliary" not in name)
            kept = ("seed", "epochs", "channels", "layers", "batch_size", "data")
            result = {
                "genotype": self.genotype.to_json(),
                "text": self.genotype.text(),
                "test_accuracy": test_accuracy,
                "test_loss": test_loss,
                "test_images": len(self.test_set.labels),
                "parameters": sum(body),
                "history": [{key: each[key] for key in ("epoch", "train_loss", "train_accuracy")} for each in history],
                "seconds": history[-1]["elapsed_s"],
                "path": str(folder.path),
            } | {key: getattr(self.config, key) for key in kept}
            folder.scalar("test_accuracy", test_accuracy, self.epochs * self.steps)
            folder.hparams(dataclasses.asdict(self.config), ("train_accuracy", "test_accuracy"))
            folder.write_result(result)
        return result

    def begin_epoch(self, epoch: int) -> None:
        config = self.config
        self.lr = cosine(epoch, self.epochs, config.lr, config.lr_min)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.model.drop_path_prob = config.drop_path * epoch / self.epochs
        self.model.train()

    def step(self, epoch: int, position: int) -> dict[str, Tensor]:
        images, labels = self.train.next()
        logits, logits_aux = self.model(images)
        loss = self._loss(logits, labels)
        total = loss if logits_aux is None else loss + self.config.auxiliary * self._loss(logits_aux, labels)
        descend(total, self.weights, self.optimizer, self.config.grad_clip)
        return {"train_loss": loss.detach(), "train_accuracy": accuracy(logits, labels)}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    def end_epoch(self, epoch: int, step: int, means: Mapping[str, float], folder: RunFolder) -> dict[str, Any]:
        return dict(means) | {"lr": self.lr}

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "train": self.train.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # First, since other data are refused here in words that a person understands.
        self.train.load_state_dict(state["train"])
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
