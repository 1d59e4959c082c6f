"""The search's experiment: the recipe by hand is chosen where the search searches, and judged where it does not."""

from __future__ import annotations

import pytest

from benchmarks.experiments.merge_search import _judged


def pieces(*bits):
    return {"text": [[0.6931471805599453 * each, 1.0] for each in bits]}


def test_the_best_by_hand_is_the_best_on_the_half_that_was_searched_on():
    scores = {
        "base": [pieces(2, 2), pieces(2, 2)], "one": [pieces(1.2, 1.2), pieces(1, 1)],
        "other": [pieces(1.1, 1.1), pieces(1.5, 1.5)], "search": [pieces(1, 1), pieces(1.25, 1.25)],
    }  # fmt: skip
    found = _judged(scores, ["base"], ["one", "other"], "mean")
    assert found["best_by_hand"] == "other" and found["gain"]["value"] == pytest.approx(0.25)
    assert found["sides"]["one"]["searched"] == pytest.approx(1.2)
    assert found["sides"]["search"]["bits_per_byte"]["text"] == pytest.approx(1.25)
