"""Whole transplant commands beside each other: the same models, the same text, one run.

    python -m benchmarks.experiments.compare benchmarks/experiments/compare_mergekit.toml
    python -m benchmarks.experiments.compare benchmarks/experiments/full_job.toml

The commands run in turn. Wall time and peak memory are the operating system's own; the
outputs are scored by the same code. A peer lives in an environment of its own (`make bench-compare`).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    base, donor = getattr(models, experiment["base"])(), getattr(models, experiment["donor"])()
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "sides": {}}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-compare-") as work:
        places = {side: Path(work) / side for side in experiment["commands"]}
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in places}
        for _ in range(experiment["repeats"]):
            for side, command in experiment["commands"].items():
                shutil.rmtree(places[side], ignore_errors=True)
                runs[side].append(timed([part.format(base=base, donor=donor, out=places[side]) for part in command]))
                print(side, runs[side][-1], flush=True)
        for side, out in {"untouched base": base, **places}.items():
            result["sides"][side] = {"scores": {str(n): _score(out, n) for n in experiment["bytes"]}}
            print(side, {n: round(s["mean"], 4) for n, s in result["sides"][side]["scores"].items()}, flush=True)
            if side in runs:
                walls, peaks = [r["wall_s"] for r in runs[side]], [r["peak_mib"] for r in runs[side]]
                result["sides"][side] |= {
                    "runs": runs[side],
                    "median_wall_s": statistics.median(walls),
                    "median_peak_mib": statistics.median(peaks),
                }
        ours = Manifest.read(places["tokensurgeon"])
        result["inputs"] = {side: ours.content[side] for side in ("base", "donor")} if ours else None
        result["anchors"] = ours.content["anchors"] if ours else None
        result["counts"] = ours.content["counts"] if ours else None
    result["loss"] = _losses(result["sides"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["loss"], indent=2))


def _score(directory: Path, n_bytes: int) -> dict[str, Any]:
    loaded = load_model(directory)
    scores = {
        name: score_text(loaded.model, loaded.encode, loaded.prefix, pieces).bits_per_byte
        for name, pieces in texts.corpora(n_bytes).items()
    }
    return {"mean": statistics.fmean(scores.values()), **scores}


def _losses(sides: dict[str, Any]) -> dict[str, Any]:
    """Loss in bits per byte against the untouched base, and ours relative to the peer's, if it ran."""
    losses: dict[str, Any] = {}
    for size, base in sides["untouched base"]["scores"].items():
        of = {side: s["scores"][size]["mean"] - base["mean"] for side, s in sides.items() if side != "untouched base"}
        peer = of.get("mergekit-tokensurgeon")
        smaller = {side: 1 - loss / peer for side, loss in of.items() if loss != peer} if peer else {}
        losses[size] = {**of, "smaller_by": smaller}
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1]))
