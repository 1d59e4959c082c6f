"""What real transplants lose on five texts, beside what tokenizers alone say of the pair.

    python -m benchmarks.experiments.prediction benchmarks/experiments/prediction.toml

Losses are kept by what makes rows and what scores them, so that a broken run goes on where it was.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models, texts
from benchmarks.common.cached import Cached, key, source, versions
from benchmarks.common.provenance import provenance
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.evaluation.texts import python_text, split_bytes

RESULTS = Path(__file__).parents[1] / "results"
_MADE_BY = ("tokensurgeon/solver/*.py", "tokensurgeon/transfer/*.py", "tokensurgeon/baselines/*.py",
            "tokensurgeon/alignment/match.py", "benchmarks/common/texts.py")  # fmt: skip


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
    bases, pairs = {}, []
    for base in experiment["models"]:
        bases[base] = cached.once(key("base", base, *made_by), lambda base=base: score(getattr(models, base)(), read))
        print(base, bases[base], flush=True)
    for base, donor in itertools.permutations(experiment["models"], 2):
        after = cached.once(
            key("pair", base, donor, *made_by),
            lambda base=base, donor=donor: transplanted(base, donor, experiment["options"], read),
        )
        pairs.append({"base": base, "donor": donor} | after)
        print(base, donor, after, flush=True)
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result | {"bases": bases, "pairs": pairs}, indent=1) + "\n")


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
