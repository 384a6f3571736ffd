"""Every method: a search of seconds ends with a genotype of its space, and resumes bit for bit where it was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, Interrupted, resume, search
from fastdarts.search.choices import Stage
from tests import tiny


def _cut(name: str, path: Path, step: int) -> None:
    with pytest.raises(Interrupted, match="stopped; the state is saved"):
        search(tiny.config(name), path, train_set=tiny.images(), search_space=tiny.SPACE, progress=tiny.StopAt(step))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_searches_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    config = tiny.config(name)
    whole = search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    tiny.SPACE.check(whole.genotype)
    records = [each for each in tiny.metrics(tmp_path / "whole") if each["kind"] == "epoch"]
    assert [each["epoch"] for each in records] == list(range(config.epochs))
    steps = records[0]["step"]
    _cut(name, tmp_path / "cut", steps + 1)
    resumed = resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert resumed.genotype == whole.genotype
    assert (resumed.valid_loss, resumed.valid_accuracy) == (whole.valid_loss, whole.valid_accuracy)


@pytest.mark.parametrize("step", [7, 12, 13])
def test_p_darts_resumes_inside_and_between_its_stages(step: int, tmp_path: Path) -> None:
    """Stages of two epochs of three steps: step 7 is the first of the second stage, 12 its last."""
    search(tiny.config("p-darts"), tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    _cut("p-darts", tmp_path / "cut", step)
    state = RunFolder.open(tmp_path / "cut").load().state["job"]
    stage = Stage.from_json(state["stage"])
    assert (stage.index, stage.start) == ((1, 2) if step < 12 else (2, 4))
    assert stage.space.normal.width == 4 - stage.index
    resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")
