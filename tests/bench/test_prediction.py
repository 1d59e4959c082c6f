"""What predicts the loss is what was fitted, and the fit finds what lies in the points."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.experiments.prediction import FORMS, RESULTS, Point, fitted
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.alignment.prediction import NATS_A_PLACE, SPREAD


def point(base, donor, text, places, nats):
    cuts = Cuts(1000, 300, 300, 0, 0, {"whole": 200, "split": places, "joined": 0, "mixed": 0}, {})
    return Point(base, donor, text, cuts, nats * places / 1000 / math.log(2))


def test_the_constants_are_those_of_the_result():
    form = json.loads((RESULTS / "prediction.json").read_text())["forms"]["places"]
    assert form["nats"] == [pytest.approx(NATS_A_PLACE, abs=0.005)]
    assert form["spread"] == pytest.approx(SPREAD, abs=0.005)


def test_a_pair_left_out_is_predicted_from_the_others():
    """Where one donor's places cost half, it is predicted at twice its loss, and the others as if it were not there."""
    points = [point("a", donor, text, n, 6.0) for donor in "bc" for text, n in (("t", 10), ("u", 20))]
    found = fitted(FORMS["places"], points)
    assert found["nats"] == [pytest.approx(6)] and found["rms"] == pytest.approx(dict.fromkeys(found["rms"], 0))
    points += [point("a", "d", text, n, 3.0) for text, n in (("t", 40), ("u", 30))]
    found = fitted(FORMS["places"], points)
    assert [guess / lost for *_, lost, guess in found["left_out"][4:]] == pytest.approx([2, 2])
    assert found["relative"] < 1 and found["nats"][0] < 6


def test_donors_that_are_put_in_the_right_order_are_counted():
    points = [point("a", "b", "t", 10, 6.0), point("a", "c", "t", 20, 6.0), point("a", "d", "t", 30, 1.0)]
    assert fitted(FORMS["places"], points)["order"] == [1, 3]


def test_donors_that_cut_a_text_alike_are_not_compared():
    points = [point("a", "b", "t", 10, 6.0), point("a", "c", "t", 10, 5.0), point("a", "d", "t", 30, 6.0)]
    assert fitted(FORMS["places"], points)["order"] == [2, 2]
