"""How well tokenizers alone predict what real transplants lose: pairs and losses of `four_models`.

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
from benchmarks.experiments.fidelity import all_results
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.surgery.pair import align_sides

EXPERIMENTS = Path(__file__).parent
RESULTS = Path(__file__).parents[1] / "results"

Form = Callable[[Cuts], tuple[float, ...]]


class Point(NamedTuple):
    """A pair, a text as it cuts it, and bits per byte lost there."""

    base: str
    donor: str
    text: str
    cuts: Cuts
    lost: float


FORMS: dict[str, Form] = {
    "bytes in split tokens, in new ones": lambda cuts: (cuts.inside["split"], cuts.new_bytes),
    "bytes in split tokens, in new ones, all": lambda cuts: (cuts.inside["split"], cuts.new_bytes, cuts.n_bytes),
    "split, joined, mixed places": lambda cuts: (cuts.places["split"], cuts.places["joined"], cuts.places["mixed"]),
    "places": lambda cuts: (cuts.changed,),
}
"""What the loss may be proportional to; `tokensurgeon.alignment.prediction` has the last one."""


def main(path: Path, results: Path = RESULTS) -> None:
    """Fit to what was measured, and write the result."""
    texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    measured = EXPERIMENTS / experiment["measured"]
    pairs = {of["title"]: (of["base"], of["donor"]) for of in tomllib.loads(measured.read_text())["pairs"].values()}
    points = [
        point
        for found in all_results(measured, results)
        for point in points_of(*pairs[found["title"]], found, experiment["side"])
    ]
    forms = {name: fitted(form, points) for name, form in FORMS.items()}
    result = provenance(path.stem) | {"settings": experiment, "forms": forms}
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def points_of(base: str, donor: str, found: dict[str, Any], side: str) -> list[Point]:
    """What a pair lost on each text by one method."""
    pair, read = found["pair"], texts.corpora(found["settings"]["measures"]["bytes"])
    after, before = (of["bits_per_byte"] for of in (pair["sides"][side], pair["untouched"]))
    return [Point(base, donor, name, cuts, after[name] - before[name]) for name, cuts in cut(base, donor, read).items()]


@cache
def opened(name: str) -> OpenModel:
    """A model's tokenizer."""
    return OpenModel.open(str(getattr(models, name)()), "none")


def cut(base: str, donor: str, read: dict[str, list[str]]) -> dict[str, Cuts]:
    """Each text as a pair cuts it."""
    left, right = opened(base), opened(donor)
    aligned, _ = align_sides(left, right)
    return {name: Cuts.of(left.vocabulary, right.vocabulary, aligned.plan, parts) for name, parts in read.items()}


def fitted(form: Form, points: Sequence[Point]) -> dict[str, Any]:
    """Nats for each unit of what a form counts, and how far its predictions are from what was lost.

    Returns:
        ``nats``; ``rms`` error in bits per byte, of what it was ``fit`` to and of pairs ``left_out``; ``relative``, the
        median error of texts left out beside the loss; ``spread``, that nine in ten of these errors are within, beside
        the root of the prediction; ``order``, how often the donor that should cost a base less does so on a text, and
        of how many; and all predictions.
    """

    def counts(of: Sequence[Point]) -> Any:
        return np.array([form(one.cuts) for one in of]) / np.array([[one.cuts.n_bytes * math.log(2)] for one in of])

    sides, lost = [(one.base, one.donor) for one in points], np.array([one.lost for one in points])
    x, left_out = counts(points), np.empty(len(points))
    for pair in set(sides):
        inside = np.array([other == pair for other in sides])
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

    Two that cut the text alike are not compared.
    """
    right = [
        (guess < other) == (one.lost < another.lost)
        for (one, guess), (another, other) in itertools.combinations(zip(points, guessed, strict=True), 2)
        if (one.base, one.text) == (another.base, another.text) and one.cuts != another.cuts
    ]
    return [sum(map(bool, right)), len(right)]


def listed(points: Sequence[Point], guessed: Any) -> list[list[Any]]:
    """Base, donor, text, what was lost, and what was predicted."""
    return [[one.base, one.donor, one.text, one.lost, float(guess)] for one, guess in zip(points, guessed, strict=True)]


def _fit(x: Any, lost: Any) -> Any:
    """Least squares without negative coefficients."""
    return LinearRegression(fit_intercept=False, positive=True).fit(x, lost).coef_


def _rms(off: Any) -> float:
    return float(np.sqrt((off**2).mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
