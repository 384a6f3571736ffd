"""A search from its configuration to its result, begun or continued."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastdarts._backend import use_backend
from fastdarts.data import ImageSet, load_images
from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search.config import SearchConfig
from fastdarts.search.environment import describe_environment, reopened
from fastdarts.search.extension import returned
from fastdarts.search.job import SearchJob
from fastdarts.search.origin import describe_origin
from fastdarts.search.progress import Progress, watcher
from fastdarts.search.result import SearchResult
from fastdarts.spaces import Space

__all__ = ["resume", "search", "training_images"]


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
        progress: who watches; None for a bar in a terminal and silence elsewhere, ``Progress()`` for silence.
        command: how the run was started, for the report.
        after: what the caller will do with the genotype; kept in ``config.json`` so that a resumption can too.

    Returns:
        The genotype and the supernet's last validation figures.

    Raises:
        UserError: for a bad configuration or data set, before anything is written.
        Diverged: where the losses say that there is no result (:mod:`fastdarts.search.divergence`).
        Interrupted: on SIGINT or SIGTERM; continue with :func:`resume`.
    """
    if search_space is not None:
        config = replace(config, space=search_space.name)
    with use_backend(config.backend):
        job = SearchJob(config, training_images(config, train_set), search_space)
        record = {"kind": "search", "config": config.to_json(), "command": command, "after": dict(after or {})}
        record["origin"] = describe_origin()
        record |= {"environment": describe_environment(job.device, config.threads), "space": job.space.to_json()}
        with RunFolder.create(path, record) as folder:
            return job.run(folder, watcher(progress))


def resume(
    path: str | os.PathLike[str],
    *,
    train_set: ImageSet | None = None,
    previous: bool = False,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Continue a search from its newest checkpoint; the result is bit for bit that of an uninterrupted run.

    A finished search is extended with ``epochs``: it goes on with the weights and alphas it ended with, and its
    schedules from where they would stand in a search of so many epochs, so that the learning rate rises again. That is
    not a search of so many epochs from the start. What it had ended with is kept in ``after-E-epochs/``.

    Args:
        path: the run folder.
        train_set: the same images as before, for ``config.data == "custom"``.
        previous: use the checkpoint before the newest one.
        epochs: extend a finished search to so many; None: as planned.
        progress: who watches.

    Raises:
        UserError: for a folder that is no search, a checkpoint that is damaged or from elsewhere, records that would be
            lost since the checkpoints were removed, or a search that cannot be extended.
    """
    progress = watcher(progress)
    with reopened(path, "search", SearchConfig.from_json) as (folder, configured):
        back = returned(folder, configured, "result.json", previous=previous, epochs=epochs, progress=progress)
        if back.result is not None:
            return SearchResult.from_json(back.result, folder.path)
        config = back.config
        job = SearchJob(config, training_images(config, train_set), Space.from_json(folder.config.get("space")))
        if back.extension is not None:
            assert back.checkpoint is not None, "an extension goes on from a checkpoint"
            job.check_extension(back.checkpoint)
        return job.run(folder, progress, back.checkpoint, back.extension)


def training_images(config: SearchConfig, given: ImageSet | None) -> ImageSet:
    """The images of a search, or those that were given for it."""
    if (config.data == "custom") != (given is not None):
        raise UserError(
            f"data {config.data!r} {'without' if given is None else 'with'} a train_set",
            "a train_set exactly where data is 'custom'",
            "images of your own are given from Python: search(..., train_set=) and resume(..., train_set=)",
        )
    return given if given is not None else load_images(config.data, config.data_root)[0]
