"""The search: data, supernet, two levels of learning, records, and the genotype at the end."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts._backend import use_backend
from fastdarts.data import Augmentation, Batches, ImageSet, load_images, split_levels
from fastdarts.errors import UserError
from fastdarts.nn import DerivedNetwork, Supernet
from fastdarts.runs import Checkpoint, RunFolder
from fastdarts.search.config import SearchConfig
from fastdarts.search.environment import (
    describe_environment,
    reopened,
    reproducible,
    resolve_device,
    seed_everything,
)
from fastdarts.search.graph import new_recorder, new_step
from fastdarts.search.methods import method
from fastdarts.search.progress import Progress
from fastdarts.search.runner import run_job
from fastdarts.search.schedule import cosine
from fastdarts.search.step import accuracy
from fastdarts.search.stepper import Evaluation, Stepper
from fastdarts.spaces import Genotype, Space, space

__all__ = ["SearchResult", "check_batch", "count_parameters", "evaluate", "resume", "search"]


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Args:
        genotype: the one derived after the last epoch.
        valid_loss, valid_accuracy: of the supernet on the architecture level's images, after the last epoch.
        epochs: epochs searched.
        seconds: time spent searching, over all resumptions.
        path: the run folder.
    """

    genotype: Genotype
    valid_loss: float
    valid_accuracy: float
    epochs: int
    seconds: float
    path: Path

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``text`` is the genotype's own text."""
        values = dict(vars(self)) | {"genotype": self.genotype.to_json(), "path": str(self.path)}
        return values | {"text": self.genotype.text()}


def search(
    config: SearchConfig,
    path: str | os.PathLike[str],
    *,
    train_set: ImageSet | None = None,
    search_space: Space | None = None,
    progress: Progress | None = None,
    command: str = "",
    after: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Run a differentiable search into a new run folder.

    Args:
        config: from :func:`fastdarts.search.configure`.
        path: the run folder to create.
        train_set: images for ``config.data == "custom"``; both levels are taken from it.
        search_space: a space of your own instead of the one named by ``config.space``.
        progress: who watches.
        command: how the run was started, for the report.
        after: what the caller will do with the genotype; kept in ``config.json`` so that a resumption can too.

    Returns:
        The genotype and the supernet's last validation figures.

    Raises:
        UserError: for a bad configuration or data set, before anything is written.
        Interrupted: on SIGINT or SIGTERM; continue with :func:`resume`.
    """
    if search_space is not None:
        config = replace(config, space=search_space.name)
    with use_backend(config.backend):
        job = SearchJob(config, _train_set(config, train_set), search_space)
        record = {"kind": "search", "config": config.to_json(), "command": command, "after": dict(after or {})}
        record |= {"environment": describe_environment(job.device, config.threads), "space": job.space.to_json()}
        with RunFolder.create(path, record) as folder:
            return job.run(folder, progress or Progress())


def resume(
    path: str | os.PathLike[str],
    *,
    train_set: ImageSet | None = None,
    previous: bool = False,
    progress: Progress | None = None,
) -> SearchResult:
    """Continue a search from its newest checkpoint; the result is bit for bit that of an uninterrupted run.

    Args:
        path: the run folder.
        train_set: the same images as before, for ``config.data == "custom"``.
        previous: use the checkpoint before the newest one.
        progress: who watches.

    Raises:
        UserError: for a folder that is no search, or a checkpoint that is damaged or from elsewhere.
    """
    progress = progress or Progress()
    with reopened(path, "search", SearchConfig.from_json, progress) as (folder, config):
        job = SearchJob(config, _train_set(config, train_set), Space.from_json(folder.config.get("space")))
        return job.run(folder, progress, folder.load(previous=previous) if folder.steps() else None)


def _train_set(config: SearchConfig, given: ImageSet | None) -> ImageSet:
    if (config.data == "custom") != (given is not None):
        raise UserError(
            f"data {config.data!r} {'without' if given is None else 'with'} a train_set",
            "a train_set exactly where data is 'custom'",
            "images of your own are given from Python: search(..., train_set=) and resume(..., train_set=)",
        )
    return given if given is not None else load_images(config.data, config.data_root)[0]


class SearchJob:
    """The search as :func:`fastdarts.search.runner.run_job` drives it."""

    def __init__(self, config: SearchConfig, images: ImageSet, search_space: Space | None = None) -> None:
        self.config, self.title = config, f"search ({config.method})"
        self.method = method(config.method)
        self.space = search_space or space(config.space)
        self.device = resolve_device(config.device)
        self.epochs = config.epochs
        weight_level, arch_level = split_levels(len(images.labels), config.train_portion, config.seed)
        if config.one_level:
            weight_level = torch.cat([weight_level, arch_level])
        augmentation = Augmentation(config.crop, config.flip, config.cutout)

        def batches(indices: Tensor, stream: int) -> Batches:
            return Batches(
                images,
                indices,
                batch_size=config.batch_size,
                seed=config.seed * 2 + stream,
                device=self.device,
                augmentation=augmentation,
            )

        self.ends = images.classes, images.images.shape[1]
        self.train, self.valid = batches(weight_level, 0), batches(arch_level, 1)
        self.steps = len(self.train)
        seed_everything(config.seed)
        self.model = Supernet(
            self.space,
            channels=config.channels,
            layers=config.layers,
            classes=self.ends[0],
            in_channels=self.ends[1],
            partial=config.partial,
            edge_normalisation=config.edge_normalisation,
            memory=config.memory,
        )
        check_batch(self.model, images, config.batch_size)
        self.model.to(self.device)
        self.step_both = new_step(config, self.device, self.model, self.method.relaxation)

    def run(self, folder: RunFolder, progress: Progress, checkpoint: Checkpoint | None = None) -> SearchResult:
        """Search to the end, write the result, and return it."""
        with reproducible(self.device, self.config.threads):
            self.folder = folder
            recorder = new_recorder(self.device, self.step_both, progress.note)
            valid = None if self.config.one_level else self.valid
            self.stepper = Stepper(self.step_both, self.train, valid, recorder)
            self.evaluation = Evaluation(self.model, self.valid, recorder)
            run_job(self, folder, progress=progress, checkpoint=checkpoint, save_every=self.config.save_every)
        last = [record for record in folder.metrics() if record["kind"] == "epoch"][-1]
        result = SearchResult(
            self.model.genotype(),
            last["valid_loss"],
            last["valid_accuracy"],
            self.epochs,
            last["elapsed_s"],
            folder.path,
        )
        folder.write_json("genotype.json", result.genotype.to_json())
        folder.write_text("genotype.txt", result.genotype.text() + "\n")
        folder.write_json("result.json", result.to_json())
        return result

    def begin_epoch(self, epoch: int) -> None:
        self.lr = cosine(epoch, self.epochs, self.config.lr, self.config.lr_min)
        self.step_both.set_lr(self.lr)
        self.model.train()

    def step(self, epoch: int, position: int) -> dict[str, Tensor]:
        draws = self.stepper.draw()
        progress = (epoch * self.steps + position) / (self.epochs * self.steps)
        if position == 0 and epoch in self.config.check_hypergradient:
            self._check(epoch, *self.stepper.batches(draws), progress)
        return self.stepper(draws, progress, alphas=epoch >= self.config.arch_start_epoch)

    def end_epoch(self, epoch: int, step: int, means: Mapping[str, float], folder: RunFolder) -> dict[str, Any]:
        genotype = self.model.genotype()
        weights, edge_weights = self.model.mixing_weights(), self.model.edge_weights()
        epoch_file = self._epoch_file(epoch, genotype, weights, edge_weights)
        entropy = {key: _entropy(value) for key, value in weights.items()}
        # From here to the result nothing asks the device: a GPU evaluates while the host writes and counts.
        self.evaluation.start()
        folder.write_json(f"epochs/{epoch:04d}.json", epoch_file)
        parameters = count_parameters(genotype, self.config.channels, self.config.layers, *self.ends)
        valid_loss, valid_accuracy = self.evaluation.result()
        return dict(means) | {
            "valid_loss": valid_loss,
            "valid_accuracy": valid_accuracy,
            "lr": self.lr,
            "skips": {key: genotype.skips(key) for key in genotype.cells},
            "entropy": entropy,
            "parameters": parameters,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            **self.step_both.state_dict(),
            "train": self.train.state_dict(),
            "valid": self.valid.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # First, since other data are refused here in words that a person understands.
        self.train.load_state_dict(state["train"])
        self.valid.load_state_dict(state["valid"])
        self.model.load_state_dict(state["model"], strict=True)
        self.step_both.load_state_dict(state)

    def _check(self, epoch: int, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], progress: float) -> None:
        values = dict(vars(self.step_both.check(train, valid, progress)))
        record = {"kind": "hypergradient", "epoch": epoch, "step": epoch * self.steps}
        self.folder.log(record | {"method_kind": values.pop("kind")} | values)

    def _epoch_file(
        self, epoch: int, genotype: Genotype, weights: dict[str, Tensor], edge_weights: dict[str, Tensor] | None
    ) -> dict[str, Any]:
        def listed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
            return {key: value.detach().cpu().tolist() for key, value in tensors.items()}

        edges = {
            key: [
                {"source": edge.source, "node": edge.node, "primitives": list(edge.primitives)}
                for edge in self.space.cell(key, self.model.layers).edges
            ]
            for key in weights
        }
        return {
            "epoch": epoch,
            "genotype": genotype.to_json(),
            "text": genotype.text(),
            "alphas": listed(self.model.arch.alphas),
            "weights": listed(weights),
            "edge_weights": listed(edge_weights) if edge_weights is not None else None,
            "edges": edges,
        }


def check_batch(model: nn.Module, images: ImageSet, batch_size: int) -> None:
    """Refuse batches of one image where a layer needs two to train, by a pass without data or memory.

    Raises:
        UserError: from the layer that the first step would have stopped at, after the run folder was made.
    """
    if batch_size == 1:
        with torch.no_grad():
            copy.deepcopy(model).to("meta").train()(torch.empty(1, *images.images.shape[1:], device="meta"))


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of ``model`` in eval mode over one pass; the mode is put back after."""
    training = model.training
    model.eval()
    loss, correct, count = 0.0, 0.0, 0
    with torch.no_grad():
        for images, labels in batches:
            logits = model(images)
            logits = logits[0] if isinstance(logits, tuple) else logits
            loss = loss + F.cross_entropy(logits, labels, reduction="sum").double()
            correct = correct + accuracy(logits, labels) * len(labels)
            count += len(labels)
    model.train(training)
    return float(loss) / count, float(correct) / count


def count_parameters(genotype: Genotype, channels: int, layers: int, classes: int, in_channels: int) -> int:
    """Number of weights of the derived network, without its auxiliary head, as the papers count them."""
    with torch.device("meta"):
        network = DerivedNetwork(genotype, channels=channels, layers=layers, classes=classes, in_channels=in_channels)
    return sum(weight.numel() for weight in network.parameters())


def _entropy(weights: Tensor) -> float:
    """Mean over edges of the entropy of the mixing weights [E, width], in nats."""
    return float(torch.special.entr(weights.detach().double()).sum(1).mean())
