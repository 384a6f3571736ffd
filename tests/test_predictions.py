"""Prediction against measurement over a small draw of random configurations; bench/predictions.py draws 210."""

from __future__ import annotations

import pytest

from bench.predictions import compared, draw

# One of each memory mode and dtype, of plain torch, partial channels, drawn and named spaces, and the large stem.
SEEDS = (0, 1, 2, 3, 18, 28, 195)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_predicted_is_what_is_measured(seed: int) -> None:
    row = compared(draw(seed))
    assert row["differs"] == {}
    assert row["measured"]["peak_bytes"] > row["measured"]["kept_bytes"] > 0


def test_a_seed_draws_the_same_again() -> None:
    assert draw(5) == draw(5) != draw(6)
