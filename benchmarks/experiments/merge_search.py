"""A search for weights beside recipes set by hand, on two fine-tunes of SmolLM2.

    python -m benchmarks.experiments.merge_search benchmarks/experiments/merge_search.toml

The search sees the first half of two texts that neither fine-tune has read, and the best recipe by hand is chosen on
the same half; what is reported is the second half.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import transformers
import yaml

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.experiments.finetunes import SHORT, finetunes, held_out
from tokensurgeon import SearchOptions, search_recipe
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.merging.mergekit import require_mergekit
from tokensurgeon.merging.prepare import prepare
from tokensurgeon.merging.recipe import read_recipe
from tokensurgeon.merging.search.objective import Pieces, bits_per_byte, cost_of, interval
from tokensurgeon.merging.search.trial import Trials, score_model, score_pieces

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    require_mergekit()
    experiment = tomllib.loads(path.read_text())
    texts = {name: "".join(pieces) for name, pieces in held_out(experiment["bytes"]).items()}
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "finetunes": SHORT}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-search-") as place:
        work = Path(place)
        for name, text in texts.items():
            (work / f"{name}.txt").write_text(text)
        halves = _halves(texts)
        singles = {"base": models.smollm2(), **finetunes(SHORT)}
        scores: dict[str, list[Pieces]] = {name: score_model(of, "cpu", *halves) for name, of in singles.items()}
        for side, settings in experiment["by_hand"].items():
            scores[side] = _merged(_written(settings, work), halves, work)
            print(side, *map(bits_per_byte, scores[side]), flush=True)
        begun, asked = time.perf_counter(), experiment["search"]
        options = SearchOptions(
            tuple(str(work / f"{name}.txt") for name in texts), asked["objective"], asked["evaluations"],
            experiment["bytes"], asked["seed"],
        )  # fmt: skip
        report = search_recipe(_written(asked["recipe"], work), work / "out", options, searching=_said)
        result["search"] = report.content["merge"]["search"] | {"seconds": round(time.perf_counter() - begun, 1)}
        found = yaml.safe_load((work / "out.yaml").read_text())
        result["found"] = [one["parameters"] for one in found["models"]]
        scores["search"] = score_model(work / "out", "cpu", *halves)
    result |= _judged(scores, list(singles), list(experiment["by_hand"]), asked["objective"])
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("best_by_hand", "gain", "found")}, indent=1))


def _halves(texts: dict[str, str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """As the search divides them."""
    pieces = {name: split_bytes(text) for name, text in texts.items()}
    return (
        {name: of[: len(of) // 2] for name, of in pieces.items()},
        {name: of[len(of) // 2 :] for name, of in pieces.items()},
    )


def _written(settings: dict[str, Any], work: Path) -> Path:
    """A recipe of both fine-tunes; ``each`` are the parameters of either."""
    recipe = {name: value for name, value in settings.items() if name not in ("each", "base")}
    tuned = finetunes(SHORT).values()
    recipe["models"] = [{"model": str(of), "parameters": deepcopy(settings["each"])} for of in tuned]  # no aliases
    recipe |= {"base_model": str(models.smollm2())} if settings["base"] else {}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return work / "recipe.yaml"


def _merged(recipe: Path, halves: tuple[dict[str, list[str]], ...], work: Path) -> list[Pieces]:
    with tempfile.TemporaryDirectory(dir=work) as place:
        read = read_recipe(recipe)
        loaded = Trials(prepare(read, work / "none", False, [], None), Path(place), 0).model(read)
        return [score_pieces(loaded, half) for half in halves]


def _said(tried: int, most: int, best: float) -> None:
    print(f"{tried} of {most}: {best:.5f}", flush=True)


def _judged(scores: dict[str, list[Pieces]], singles: list[str], by_hand: list[str], objective: Any) -> dict[str, Any]:
    """Costs on both halves, and what the search gains on the recipe by hand that is best on the first."""

    def cost(merged: dict[str, float], *single: dict[str, float]) -> float:
        return cost_of(objective, merged, single)

    def gained(before: dict[str, float], after: dict[str, float], *single: dict[str, float]) -> float:
        return cost(before, *single) - cost(after, *single)

    first, second = ([scores[name][half] for name in singles] for half in (0, 1))
    sides = {
        name: {
            "searched": cost(bits_per_byte(of[0]), *map(bits_per_byte, first)),
            "held_out": interval(cost, of[1], *second),
            "bits_per_byte": bits_per_byte(of[1]),
        }
        for name, of in scores.items()
    }
    best = min(by_hand, key=lambda name: sides[name]["searched"])
    gain = interval(gained, scores[best][1], scores["search"][1], *second)
    return {"sides": sides, "best_by_hand": best, "gain": gain}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
