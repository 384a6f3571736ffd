"""What a search ends with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdarts.errors import UserError
from fastdarts.spaces import Genotype

if TYPE_CHECKING:
    from fastdarts.report.run import Drawing

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Args:
        genotype: the one derived after the last epoch, or after the one that a guard chose, or by a final selection.
        valid_loss, valid_accuracy: of the supernet on the architecture level's images, after that epoch.
        epoch: that epoch of the run.
        epochs: epochs searched.
        seconds: time spent searching, over all resumptions.
        path: the run folder.
    """

    genotype: Genotype
    valid_loss: float
    valid_accuracy: float
    epoch: int
    epochs: int
    seconds: float
    path: Path

    def report(self) -> Path:
        """Write ``report.html`` into the run folder, and return its path."""
        from fastdarts.report import write_report

        return write_report(self.path)

    def plot(self, what: str = "cells", path: str | os.PathLike[str] | None = None) -> Drawing:
        """Draw the found cells, or how the search went; a notebook shows the result as a picture.

        Args:
            what: ``cells``, ``curves`` (losses and accuracies by epoch) or ``counts`` (skips, parameters, entropy).
            path: an SVG file to write it to.

        Returns:
            SVG.

        Raises:
            UserError: for another ``what``, or if the file cannot be written.
        """
        from fastdarts.report.run import plot_run

        return plot_run(self.path, what, path)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``text`` is the genotype's own text."""
        values = dict(vars(self)) | {"genotype": self.genotype.to_json(), "path": str(self.path)}
        return values | {"text": self.genotype.text()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> SearchResult:
        """Inverse of :meth:`to_json`; the run folder is where it lies now."""
        needed: dict[str, Any] = {each.name: values.get(each.name) for each in fields(cls)}
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise UserError(f"{path / 'result.json'} has no {missing[0]}", "what a finished search writes")
        return cls(**(needed | {"genotype": Genotype.from_json(values["genotype"]), "path": path}))
