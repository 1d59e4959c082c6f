"""What predicts the loss is what was fitted, and the fit finds what lies in the points."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.experiments import prediction
from benchmarks.experiments.prediction import FORMS, RESULTS, Point, fitted
from benchmarks.tables.four_models import prediction as prediction_table
from benchmarks.tables.four_models import rows as rows_table
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.alignment.prediction import NATS_A_NEW_TOKEN, NATS_A_SPLIT, NATS_A_SPLIT_BYTE, SPREAD
from tokensurgeon.checkpoint.model import OpenModel

FORM = "split places, their bytes, new tokens"


def point(base, donor, text, places, nats, tokenizer=None):
    cuts = Cuts(1000, 300, 300, 0, 0, {"whole": 200, "split": places, "joined": 0, "mixed": 0}, {})
    lost = nats * places / 1000 / math.log(2)
    return Point(f"{base} ← {donor}", base, (base, tokenizer or donor), text, cuts, lost, lost)


def test_the_constants_are_those_of_the_result():
    form = json.loads((RESULTS / "prediction.json").read_text())["forms"][FORM]
    assert form["nats"] == pytest.approx([NATS_A_SPLIT, NATS_A_SPLIT_BYTE, NATS_A_NEW_TOKEN], abs=0.005)
    assert form["spread"] == pytest.approx(SPREAD, abs=0.005)


def test_a_pair_left_out_is_predicted_from_the_others():
    """Where one donor's places cost half, it is predicted at twice its loss, and the others as if it were not there."""
    points = [point("a", donor, text, n, 6.0) for donor in "bc" for text, n in (("t", 10), ("u", 20))]
    found = fitted(FORMS["places"], points)
    assert found["nats"] == [pytest.approx(6)] and found["rms"] == pytest.approx(dict.fromkeys(found["rms"], 0))
    points += [point("a", "d", text, n, 3.0) for text, n in (("t", 40), ("u", 30))]
    found = fitted(FORMS["places"], points)
    assert [guess / lost for _, _, lost, guess, _ in found["left_out"][4:]] == pytest.approx([2, 2])
    assert found["relative"] < 1 and found["nats"][0] < 6


def test_pairs_of_the_same_tokenizers_are_left_out_together():
    points = [point("a", "b", "t", 10, 6.0), point("a", "d", "t", 40, 3.0), point("a", "e", "t", 40, 3.0, "d")]
    found = fitted(FORMS["places"], points)
    assert [guess / lost for _, _, lost, guess, _ in found["left_out"]] == pytest.approx([0.5, 2, 2])


def test_an_error_counts_beside_the_root_of_what_was_lost():
    points = [point("a", "b", "t", 10, 6.0), point("a", "c", "t", 40, 3.0)]
    assert fitted(FORMS["places"], points)["nats"] == [pytest.approx((10 + 40) / (10 / 6 + 40 / 3))]


def test_donors_that_are_put_in_the_right_order_are_counted():
    points = [point("a", "b", "t", 10, 6.0), point("a", "c", "t", 20, 6.0), point("a", "d", "t", 30, 1.0)]
    assert fitted(FORMS["places"], points)["order"] == [1, 3]
    points.append(point("a", "e", "t", 20, 9.0, "c"))  # a tokenizer counts once
    assert fitted(FORMS["places"], points)["order"] == [1, 3]


def test_the_order_is_that_of_predictions_without_the_pair():
    points = [point("a", "b", "t", 10, 3.0), point("a", "c", "t", 11, 9.0)]  # right, had both been fitted to
    assert fitted(FORMS["places"], points)["order"] == [0, 1]


def test_points_are_what_a_side_lost_where_the_tokenizers_cut_apart(zoo, monkeypatch):
    monkeypatch.setattr(prediction, "opened", lambda name: OpenModel.open(str(zoo[name]), "none"))
    monkeypatch.setattr(prediction.texts, "corpora", lambda n: {"t": ["the house of the men"][:n]})
    bits = {"untouched": {"bits_per_byte": {"t": 1.0}}, "sides": {"default": {"bits_per_byte": {"t": 1.25}}}}
    found = {"title": "T", "pair": bits, "settings": {"measures": {"bytes": 1}}}
    (one,) = prediction.points_of("gpt", "spm", found, {"t": 0.5})
    assert (one.title, one.base, one.text, one.lost, one.by_ridge) == ("T", "gpt", "t", 0.25, 0.5)
    assert one.tokenizers[0] != one.tokenizers[1] and one.cuts.n_bytes == 20 and one.cuts.changed > 0
    (same,) = prediction.points_of("gpt", "gpt", found, {"t": 0.5})
    assert same.tokenizers[0] == same.tokenizers[1] and same.cuts.changed == 0


def test_the_table_of_predictions_counts_pairs_within_a_quarter():
    left_out = [
        ["A", "t", 0.1, 0.1, 0.1], ["A", "u", 0.3, 0.2, 0.1],
        ["B", "t", 0.1, 0.2, 0.1], ["B", "u", 0.1, 0.1, 0.2],
        ["C", "t", 0.1, 0.1, 0.1], ["C", "u", 0.1, 0.1, 0.1],
    ]  # fmt: skip
    form = {"left_out": left_out, "nats": [3.0, 1.0, 8.0], "relative": 0.5, "order": [2, 3]}
    lines = prediction_table({"forms": {FORM: form}}).splitlines()
    assert lines[2] == "| A | +0.150 | +0.200 | -25% | +0.100 | +50% |"
    assert lines[3] == "| B | +0.150 | +0.100 | +50% | +0.150 | +0% |"
    assert lines[4] == "| C | +0.100 | +0.100 | +0% | +0.100 | +0% |"
    assert "2 of 3 pairs by default, 2 of 3 pairs by ridge" in lines[-1] and "in 2 of 3 cases" in lines[-1]


def test_the_table_of_rows_has_omp_as_it_was_and_counts_the_texts_that_gain():
    def side(t, u, nats):
        mean = (t + u) / 2
        bits = {"t": 1 + t, "u": 1 + u, "mean": 1 + mean, "interval": [1, 2]}
        return {"loss": {"mean": mean}, "bits_per_byte": bits, "new_tokens": {"nats_per_token": nats}}

    settings = {"settings": {"measures": {"dtype": "float32"}}}
    measured = [{"title": name, "pair": {"sides": {"omp, k=64": side(0.2, 0.1, 6.0)}}} for name in ("A", "B")]
    sides = {
        "ridge": side(0.1, 0.15, 8.0), "ridge, pieces=none": side(0.2, 0.12, 9.0),
        "omp, k=8": side(0.1, 0.1, 5.0), "omp, k=8, rest=dropped": side(0.3, 0.3, 7.0),
    }  # fmt: skip
    results = [
        {"title": "A", "pair": {"sides": sides}} | settings,
        {"title": "B", "pair": {"sides": {"ridge": side(0.4, 0.2, 8.0)}}} | settings,
    ]
    default = [{"title": "A", "pair": {"sides": {"default": side(0.1, 0.08, 4.0)}}} | settings]
    lines = rows_table(results, measured, default).splitlines()
    assert (
        lines[2]
        == "| A | +0.150 (6.0) | +0.160 (9.0) | +0.125 (8.0) | +0.300 (7.0) | +0.100 (5.0) | **+0.090** (4.0) |"
    )
    assert lines[3] == "| B | +0.150 (6.0) |  | **+0.300** (8.0) |  |  |  |"
    assert "ridge better on 1 of 2 texts, the map OMP on 2 of 2" in lines[-1] and "Scored in float32" in lines[-1]
