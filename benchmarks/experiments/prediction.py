"""What real transplants lose on five texts, and how well tokenizers alone predict it.

    python -m benchmarks.experiments.prediction benchmarks/experiments/prediction.toml

Several forms are fitted to all texts of all pairs but one, and tried on the one left out, in turn; then on the text of
`real_pairs`, which has further pairs. Losses are kept by what makes rows, so that a broken run goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
from sklearn.linear_model import LinearRegression

from benchmarks.common import models, texts
from benchmarks.common.cached import Cached, key, source, versions
from benchmarks.common.provenance import provenance
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes
from tokensurgeon.surgery.pair import align_sides

RESULTS = Path(__file__).parents[1] / "results"
_MADE_BY = ("tokensurgeon/solver/*.py", "tokensurgeon/transfer/*.py", "tokensurgeon/baselines/*.py",
            "tokensurgeon/alignment/match.py", "benchmarks/common/texts.py")  # fmt: skip

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
    """Measure what is missing, and write the result."""
    texts.required_directory()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment}
    read = pieces(experiment["bytes"])
    cached = Cached(cache_directory() / "prediction")
    made_by = (experiment["options"], experiment["bytes"], versions(), *map(source, _MADE_BY))
    bases: dict[str, Any] = {}
    pairs = []
    for base in dict.fromkeys(base for base, _ in experiment["pairs"]):
        bases[base] = cached.once(key("base", base, *made_by), lambda base=base: score(getattr(models, base)(), read))
        print(base, bases[base], flush=True)
    for base, donor in experiment["pairs"]:
        after = cached.once(
            key("pair", base, donor, *made_by),
            lambda base=base, donor=donor: transplanted(base, donor, experiment["options"], read),
        )
        lost = {name: after["bits_per_byte"][name] - bases[base][name] for name in read}
        pairs.append({"base": base, "donor": donor, **after, "loss": lost})
        print(base, donor, lost, flush=True)
    points = [
        Point(pair["base"], pair["donor"], name, cuts, pair["loss"][name])
        for pair in pairs
        for name, cuts in cut(pair["base"], pair["donor"], read).items()
    ]
    others = elsewhere(json.loads((results / "real_pairs.json").read_text()))
    forms = {name: fitted(form, points, others) for name, form in FORMS.items()}
    result |= {"bases": bases, "pairs": pairs, "forms": forms}
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


@cache
def opened(name: str) -> OpenModel:
    """A model's tokenizer."""
    return OpenModel.open(str(getattr(models, name)()), "none")


def cut(base: str, donor: str, read: dict[str, list[str]]) -> dict[str, Cuts]:
    """Each text as a pair cuts it."""
    left, right = opened(base), opened(donor)
    aligned, _ = align_sides(left, right)
    return {name: Cuts.of(left.vocabulary, right.vocabulary, aligned.plan, parts) for name, parts in read.items()}


def elsewhere(found: dict[str, Any]) -> list[Point]:
    """What pairs of `real_pairs` lost on its text, but those of one tokenizer."""
    text = {"wikitext2": [piece for of in texts.documents(found["settings"]["bytes"])["wikitext2"] for piece in of]}
    points = []
    for pair in found["pairs"]:
        sides = pair["base"], pair["donor"]
        lost = pair["sides"]["ridge"]["text"] - found["bases"][pair["base"]]["text"]
        if (cuts := cut(*sides, text)["wikitext2"]).changed:
            points.append(Point(*sides, "wikitext2", cuts, lost))
    return points


def fitted(form: Form, points: Sequence[Point], others: Sequence[Point]) -> dict[str, Any]:
    """Nats for each unit of what a form counts, and how far its predictions are from what was lost.

    Returns:
        ``nats``; ``rms`` error in bits per byte, ``left_out`` of texts of pairs that it was not fitted to, and
        ``elsewhere``; ``relative``, the median error of texts left out beside the loss; ``spread``, that nine in ten of
        these errors are within, beside the root of the prediction; ``order``, how often the donor that should cost a
        base less does so on a text, and of how many; and all predictions.
    """

    def counts(of: Sequence[Point]) -> Any:
        return np.array([form(one.cuts) for one in of]) / np.array([[one.cuts.n_bytes * math.log(2)] for one in of])

    sides, lost = [(one.base, one.donor) for one in points], np.array([one.lost for one in points])
    x, left_out = counts(points), np.empty(len(points))
    for pair in set(sides):
        inside = np.array([other == pair for other in sides])
        left_out[inside] = x[inside] @ _fit(x[~inside], lost[~inside])
    nats = _fit(x, lost)
    further, there = counts(others) @ nats, np.array([one.lost for one in others])
    off = np.abs(left_out - lost)
    return {
        "nats": nats.tolist(),
        "rms": {"fit": _rms(x @ nats - lost), "left_out": _rms(off), "elsewhere": _rms(further - there)},
        "relative": float(np.median(off / np.abs(lost))),
        "spread": float(np.quantile(off / np.sqrt(left_out), 0.9)),
        "order": order(points, left_out),
        "left_out": listed(points, left_out),
        "elsewhere": listed(others, further),
    }


def order(points: Sequence[Point], guessed: Any) -> list[int]:
    """How often the donor that should lose less than another on a base's text does so, and of how many."""
    right = [
        (guess < other) == (one.lost < another.lost)
        for (one, guess), (another, other) in itertools.combinations(zip(points, guessed, strict=True), 2)
        if (one.base, one.text) == (another.base, another.text)
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


def pieces(n_bytes: int) -> dict[str, list[str]]:
    """Texts by name, in the pieces that are scored."""
    return texts.corpora(n_bytes) | {"python": split_bytes(python_text(n_bytes, part=1))}


def score(model: Path, read: dict[str, list[str]]) -> dict[str, Any]:
    """Bits per byte of each text."""
    loaded = load_model(model)
    return {
        name: score_text(loaded.model, loaded.encode, loaded.prefix, parts).bits_per_byte
        for name, parts in read.items()
    }


def transplanted(base: str, donor: str, options: dict[str, Any], read: dict[str, list[str]]) -> dict[str, Any]:
    """One transplant: what its own report says of the loss, and bits per byte of each text."""
    places = [str(getattr(models, name)()) for name in (base, donor)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-prediction-") as work:
        report = transplant(*places, Path(work) / "out", TransplantOptions(**options))
        found = {
            "seconds": round(time.perf_counter() - started),
            "residual": report.content["residual"],
            "held_out": report.content["held_out"],
            "report": {name: of for name, of in report.content["loss"].items() if name != "costliest"},
        }
        del report
        return found | {"bits_per_byte": score(Path(work) / "out", read)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
