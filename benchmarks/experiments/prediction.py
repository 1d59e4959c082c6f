"""How well tokenizers alone predict what real transplants lose: pairs of `rows.toml`.

    python -m benchmarks.experiments.prediction benchmarks/experiments/prediction.toml

Several forms are fitted to all texts of all pairs but one, and tried on the one left out, in turn. No model is run.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LinearRegression

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.experiments.fidelity import all_results, read_experiment
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.surgery.pair import align_sides

EXPERIMENTS = Path(__file__).parent
RESULTS = Path(__file__).parents[1] / "results"

Form = Callable[[Cuts], tuple[float, ...]]

_LEAST_LOSS = 0.02
"""Bits per byte; errors of smaller losses count as of this."""


class Point(NamedTuple):
    """A pair, by title and by both tokenizers; a text as it cuts it; bits per byte lost by default and by ridge."""

    title: str
    base: str
    tokenizers: tuple[str, str]
    text: str
    cuts: Cuts
    lost: float
    by_ridge: float


FORMS: dict[str, Form] = {
    "bytes in split tokens, in new ones": lambda cuts: (cuts.inside["split"], cuts.new_bytes),
    "bytes in split tokens, in new ones, all": lambda cuts: (cuts.inside["split"], cuts.new_bytes, cuts.n_bytes),
    "split, joined, mixed places": lambda cuts: (cuts.places["split"], cuts.places["joined"], cuts.places["mixed"]),
    "places": lambda cuts: (cuts.changed,),
    "split places, new tokens": lambda cuts: (cuts.places["split"], cuts.new),
    "split places, their bytes, new tokens": lambda cuts: (cuts.places["split"], cuts.inside["split"], cuts.new),
}
"""What the loss may be proportional to; `tokensurgeon.alignment.prediction` has the last one."""


def main(path: Path, results: Path = RESULTS) -> None:
    """Fit to what was measured, and write the result."""
    texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    measured, beside = EXPERIMENTS / experiment["measured"], EXPERIMENTS / experiment["beside"]
    pairs = {of["title"]: (of["base"], of["donor"]) for of in read_experiment(measured)["pairs"].values()}
    by_ridge = {found["title"]: lost_by(found, "ridge") for found in all_results(beside, results)}
    points = [
        point
        for found in all_results(measured, results)
        for point in points_of(*pairs[found["title"]], found, by_ridge[found["title"]])
    ]
    forms = {name: fitted(form, points) for name, form in FORMS.items()}
    result = provenance(path.stem) | {"settings": experiment, "forms": forms}
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def lost_by(found: dict[str, Any], side: str) -> dict[str, float]:
    """Bits per byte that a method lost on each text of a pair."""
    before, after = (of["bits_per_byte"] for of in (found["pair"]["untouched"], found["pair"]["sides"][side]))
    return {name: value - before[name] for name, value in after.items() if name not in ("mean", "interval")}


def points_of(base: str, donor: str, found: dict[str, Any], by_ridge: dict[str, float]) -> list[Point]:
    """What a pair lost on each text by default, and by ridge."""
    lost, read = lost_by(found, "default"), texts.corpora(found["settings"]["measures"]["bytes"])
    left, right = opened(base), opened(donor)
    plan = align_sides(left, right)[0].plan
    tokenizers = left.tokenizer.digest(), right.tokenizer.digest()
    return [
        Point(
            title=found["title"],
            base=base,
            tokenizers=tokenizers,
            text=name,
            cuts=Cuts.of(left.vocabulary, right.vocabulary, plan, parts),
            lost=lost[name],
            by_ridge=by_ridge[name],
        )
        for name, parts in read.items()
    ]


@cache
def opened(name: str) -> OpenModel:
    """A model's tokenizer."""
    return OpenModel.open(str(getattr(models, name)()), "none")


def fitted(form: Form, points: Sequence[Point]) -> dict[str, Any]:
    """Nats for each unit of what a form counts, and how far its predictions are from what was lost.

    Pairs of the same two tokenizers are left out together: they are predicted alike.

    Returns:
        ``nats``; ``rms`` error in bits per byte, of what it was ``fit`` to and of pairs ``left_out``; ``relative``, the
        median error of texts left out beside the loss; ``spread``, that nine in ten of these errors are within, beside
        the root of the prediction; ``order``, how often the donor that should cost a base less does so on a text, and
        of how many; and all predictions.
    """

    def counts(of: Sequence[Point]) -> Any:
        return np.array([form(one.cuts) for one in of]) / np.array([[one.cuts.n_bytes * math.log(2)] for one in of])

    lost = np.array([one.lost for one in points])
    x, left_out = counts(points), np.empty(len(points))
    for pair in {one.tokenizers for one in points}:
        inside = np.array([one.tokenizers == pair for one in points])
        left_out[inside] = x[inside] @ _fit(x[~inside], lost[~inside])
    nats = _fit(x, lost)
    off = np.abs(left_out - lost)
    return {
        "nats": nats.tolist(),
        "rms": {"fit": _rms(x @ nats - lost), "left_out": _rms(off)},
        "relative": float(np.median(off / np.abs(lost))),
        "spread": float(np.quantile(off / np.sqrt(left_out), 0.9)),
        "order": order(points, left_out),
        "left_out": listed(points, left_out),
    }


def order(points: Sequence[Point], guessed: Any) -> list[int]:
    """How often the donor that should lose less than another on a base's text does so, and of how many.

    Of donors with one tokenizer the first counts.
    """
    known = {}
    for one, guess in zip(points, guessed, strict=True):
        known.setdefault((one.base, one.text, one.tokenizers), (one, guess))
    right = [
        (guess < other) == (one.lost < another.lost)
        for (one, guess), (another, other) in itertools.combinations(known.values(), 2)
        if (one.base, one.text) == (another.base, another.text)
    ]
    return [sum(map(bool, right)), len(right)]


def listed(points: Sequence[Point], guessed: Any) -> list[list[Any]]:
    """Title, text, what was lost, what was predicted, and what was lost by ridge."""
    return [
        [one.title, one.text, one.lost, float(guess), one.by_ridge] for one, guess in zip(points, guessed, strict=True)
    ]


def _fit(x: Any, lost: Any) -> Any:
    """Least squares without negative coefficients, of errors beside the root of the loss, as their spread grows."""
    weights = 1 / np.maximum(lost, _LEAST_LOSS)
    return LinearRegression(fit_intercept=False, positive=True).fit(x, lost, sample_weight=weights).coef_


def _rms(off: Any) -> float:
    return float(np.sqrt((off**2).mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
