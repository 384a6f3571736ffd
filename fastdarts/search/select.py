"""Another selection for a search that is done: the same supernet, read in another way."""

from __future__ import annotations

import os

from fastdarts.data import ImageSet
from fastdarts.errors import UserError
from fastdarts.runs import restore_generators
from fastdarts.search.choices import Finished
from fastdarts.search.config import SELECT, SearchConfig
from fastdarts.search.environment import reopened, reproducible
from fastdarts.search.job import SearchJob
from fastdarts.search.loop import training_images
from fastdarts.search.progress import Progress, watcher
from fastdarts.search.projection import project
from fastdarts.search.selection import SharedWeights
from fastdarts.spaces import Genotype, Space

__all__ = ["select"]


def select(
    path: str | os.PathLike[str],
    by: str = "perturbation",
    *,
    tune_epochs: int = 10,
    samples: int = 1000,
    train_set: ImageSet | None = None,
    progress: Progress | None = None,
) -> Genotype:
    """Select an architecture from the supernet that a finished search left; the run itself stays as it is.

    The result goes into ``selected-BY.json`` in the run folder. It is the same at every call.

    Args:
        path: the run folder, with its checkpoints.
        by: ``weights``, the rule of the search's method on its last alphas; ``perturbation``, DARTS-PT; ``sampled``,
            the best of random architectures by the weights that they share (Li and Talwalkar).
        tune_epochs: between the decisions of ``perturbation``; 10 is the authors', 0 decides on the supernet as it is.
        samples: architectures of ``sampled``, in rounds of 1000 with 10 finalists each on all images.
        train_set: the same images as before, for ``config.data == "custom"``.
        progress: who watches.

    Raises:
        UserError: for a folder that is no finished search, one without checkpoints, another ``by``, or tuning where the
            search's passes do not run a mixture.
    """
    if by not in SELECT:
        raise UserError(f"select by {by!r}", f"one of {', '.join(SELECT)}")
    for name, value, least in (("tune_epochs", tune_epochs, 0), ("samples", samples, 1)):
        if value < least:
            raise UserError(f"{name} is {value}", f"{least} or more")
    told = watcher(progress)
    with reopened(path, "search", SearchConfig.from_json) as (folder, config):
        if not (folder.path / "result.json").is_file():
            raise UserError(f"{folder.path} is not finished", "a finished search", "resume it first")
        if not folder.steps():
            raise UserError(f"the checkpoints of {folder.path} were removed", "the last one, which has the supernet")
        checkpoint = folder.load()
        job = SearchJob(config, training_images(config, train_set), Space.from_json(folder.config.get("space")))
        with reproducible(job.device, config.threads):
            job.rehearse()
            job.load_state_dict(checkpoint.state["job"])
            restore_generators({}, checkpoint.state["generators"])
            finished = Finished(job.model, job.choices.relaxation, job.valid.once, config.seed, told.note)
            if by == "perturbation":
                found = project(job, tune_epochs, config.seed, told.note)
            elif by == "sampled":
                found = SharedWeights(samples, 10, 10).final(finished)
            else:
                mixing = job.choices.relaxation.still(job.model)
                found = job.choices.derivation.final(finished) or job.choices.derivation(
                    job.stage.space, mixing, job.stage.layers
                )
        settings = {"perturbation": {"tune_epochs": tune_epochs}, "sampled": {"samples": samples}}.get(by, {})
        values = {"by": by, **settings, "genotype": found.to_json(), "text": found.text()}
        folder.write_json(f"selected-{by}.json", values)
    return found
