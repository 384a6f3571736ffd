"""What a user may name where a genotype is wanted: a run folder, a file, a published name, or the text itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import kind_of, parse_json, read_text
from fastdarts.runs import RunFolder
from fastdarts.spaces import PUBLISHED, Genotype, Space, parse_genotype, published, space

__all__ = ["Target", "read_space", "read_target"]


@dataclass(frozen=True)
class Target:
    """A genotype, and the run it came from where there is one.

    Args:
        genotype: what was named.
        name: what to call it in a path.
        run: the folder it came from.
        note: why this is not the genotype that a search ends with; empty where it is.
        epoch: of the file of an epoch that was named, from 0; None where the run itself was.
    """

    genotype: Genotype
    name: str
    run: RunFolder | None = None
    note: str = ""
    epoch: int | None = None

    @property
    def search(self) -> RunFolder | None:
        """The search that this is the answer of, if it is one's."""
        whole = self.run is not None and self.epoch is None and self.run.config["kind"] == "search"
        return self.run if whole else None

    def space(self) -> Space | None:
        """The space the genotype was searched in, if it came from a run."""
        found = self.run.config.get("space") if self.run else None
        return None if found is None else Space.from_json(found)

    def comparisons(self) -> Path:
        """Where its comparisons are kept when no folder is named."""
        if self.run is None or self.run.config.get("kind") == "compare":
            return Path("runs") / f"compare-{self.name}"
        return self.run.path / ("compare" if self.epoch is None else f"compare-epoch-{self.epoch:04d}")


def read_space(text: str) -> Space:
    """The space named ``text``, or kept as JSON in the file of that name (``Space.to_json``).

    Raises:
        UserError: for an unknown name, or a file that holds no space.
    """
    path = Path(text)
    return Space.from_json(_read_json(path)) if path.suffix == ".json" else space(text)


def read_target(text: str | None) -> Target:
    """Find out what ``text`` names; of a file with several genotypes ``FILE:NAME``, ``FILE:LINE`` or ``FILE:last``.

    Raises:
        UserError: naming what it could have been.
    """
    if text is None:
        raise UserError("no genotype was named", "a run folder, a published name, a file, or a genotype's text")
    path = Path(text)
    kind = kind_of(path)
    if any(mark in text for mark in "(|{[") and not kind:
        return Target(parse_genotype(text), "genotype")
    if kind == "folder":
        return _read_run(path)
    if kind == "file":
        return _read_epoch(path) or Target(_read_file(path), path.stem)
    file, _, which = text.rpartition(":")
    if file and kind_of(file) == "file":
        return Target(parse_genotype(_read_text(Path(file)), which), f"{Path(file).stem}-{which}")
    try:
        return Target(published(text), text)
    except UserError as error:
        raise UserError(
            f"{text[:200]!r} is no run folder, no file and no published genotype",
            f"one of these, or a genotype's text; published are {', '.join(PUBLISHED)}",
            error.remedy,
        ) from error


def _read_run(path: Path) -> Target:
    folder = RunFolder.open(path)
    if (path / "genotype.json").exists():
        return Target(Genotype.from_json(folder.read_json("genotype.json")), path.name, folder)
    config, trainings = folder.config.get("config"), folder.config.get("trainings")
    if isinstance(config, dict) and "genotype" in config:
        return Target(_parsed(config["genotype"], path), path.name, folder)
    if folder.config.get("kind") == "compare" and isinstance(trainings, dict):
        found = next(iter(trainings.values()), None) or {}
        return Target(_parsed(found.get("genotype"), path), path.name, folder)
    epochs = sorted((path / "epochs").glob("*.json"))
    if not epochs:
        raise UserError(f"{path} has no genotype yet", "a run with at least one finished epoch")
    newest = folder.read_json(f"epochs/{epochs[-1].name}", ("epoch", "genotype"))
    note = f"{path} is not finished; its newest genotype is that of epoch {newest['epoch'] + 1}"
    return Target(Genotype.from_json(newest["genotype"]), path.name, folder, note)


def _read_epoch(path: Path) -> Target | None:
    """The genotype after an epoch, which the collapse alarm names by its file; None for any other file."""
    run = path.absolute().parent.parent
    if path.suffix != ".json" or path.absolute().parent.name != "epochs" or not (run / "config.json").is_file():
        return None
    folder = RunFolder.open(run)
    data = folder.read_json(f"epochs/{path.name}")
    if not isinstance(data, dict) or not isinstance(data.get("epoch"), int):
        raise UserError(f"{path} is no epoch of a search", "a file as a search writes it")
    return Target(
        Genotype.from_json(data.get("genotype")), f"{run.name}-epoch-{data['epoch']:04d}", folder, epoch=data["epoch"]
    )


def _read_file(path: Path) -> Genotype:
    data = _read_json(path) if path.suffix == ".json" else None
    # Other projects keep theirs as JSON too.
    own = isinstance(data, dict) and "format" in data
    return Genotype.from_json(data) if own else parse_genotype(_read_text(path))


def _parsed(text: object, path: Path) -> Genotype:
    if not isinstance(text, str):
        raise UserError(f"{path / 'config.json'} names the genotype {str(text)[:40]}", "a genotype's text")
    return parse_genotype(text)


def _read_json(path: Path) -> Any:
    try:
        return parse_json(_read_text(path), str(path))
    except UserError as error:
        raise UserError(error.what, "a file as fastdarts writes it", error.remedy) from error


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except UserError as error:
        what = error.what if "cannot be read" in error.what else f"{path} cannot be read: {error.what}"
        raise UserError(what, error.expected or "a text file", error.remedy) from error
