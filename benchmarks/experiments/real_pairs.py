"""Four real models in all ordered pairs: control tokens, text and chat beside the untouched base.

    python -m benchmarks.experiments.real_pairs benchmarks/experiments/real_pairs.toml

Every transplant is kept by what goes into it, so that a broken run goes on where it was.
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
from benchmarks.common.cached import Cached, key, own_source, source
from benchmarks.common.chats import answer, answers_bits
from benchmarks.common.provenance import provenance
from tokensurgeon import InputError, TransplantOptions, VerificationError, transplant
from tokensurgeon.alignment.summary import control_tokens
from tokensurgeon.checkpoint.cache import cache_directory
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.evaluation.score import score_text

RESULTS = Path(__file__).parents[1] / "results"
_MEASURED_BY = ("benchmarks/experiments/real_pairs.py", "benchmarks/common/chats.py", "benchmarks/common/texts.py")


def main(path: Path, results: Path = RESULTS) -> None:
    """Measure what is missing, and write the result."""
    texts.required_directory()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "bases": {}, "pairs": []}
    cached = Cached(cache_directory() / "real_pairs")
    asked = {name: of for name, of in experiment.items() if name not in ("models", "methods")}
    made_by = (asked, own_source(), *map(source, _MEASURED_BY))
    for name in experiment["models"]:
        result["bases"][name] = cached.once(
            key("base", name, *made_by), lambda name=name: measure(load_model(getattr(models, name)()), asked)
        )
        print(name, result["bases"][name], flush=True)
    for base, donor in itertools.permutations(experiment["models"], 2):
        sides = {}
        for method, options in experiment["methods"].items():
            sides[method] = cached.once(
                key("pair", base, donor, options, *made_by),
                lambda pair=(base, donor), options=options: run(*pair, options, asked),
            )
            shown = {name: value for name, value in sides[method].items() if name != "control_tokens"}
            print(f"{base} ← {donor}", method, shown, flush=True)
        result["pairs"].append({"base": base, "donor": donor, "sides": sides})
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def run(base: str, donor: str, options: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """One transplant: what became of control tokens, and how the model does; or the line with which it is refused."""
    places = [str(getattr(models, name)()) for name in (base, donor)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-real-pairs-") as work:
        try:
            report = transplant(*places, Path(work) / "out", TransplantOptions(**options))
        except (InputError, VerificationError) as error:
            return {"refused": str(error)}
        plan = report.alignment.plan
        found = {
            "seconds": round(time.perf_counter() - started),
            "anchors": len(plan.anchors),
            "counts": plan.counts(),
            "verified": len(report.checks),
            "control_tokens": control_tokens(report.base.vocabulary, report.donor.vocabulary, report.alignment),
        }
        del report
        return found | measure(load_model(Path(work) / "out"), asked)


def measure(loaded: LoadedModel, asked: dict[str, Any]) -> dict[str, Any]:
    """Bits per byte of text and of answers, in the chat template if there is one and as plain text; and one answer."""
    pieces = [piece for document in texts.documents(asked["bytes"])["wikitext2"] for piece in document]
    talk, template = asked["conversation"], loaded.tokenizer.chat_template is not None
    return {
        "text": score_text(loaded.model, loaded.encode, loaded.prefix, pieces).bits_per_byte,
        "chat": answers_bits(loaded, talk) if template else None,
        "plain": answers_bits(loaded, talk, plain=True),
        "answer": answer(loaded, asked["question"], asked["new_tokens"]),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
