"""How well a small model drafts for another one once it wears its tokenizer.

    python -m benchmarks.drafts benchmarks/experiments/drafts.toml [PAIR ...]

Every side generates from the same prompts, in turn: no draft, one transplant per method, and the untouched draft by
transformers' universal assisted decoding.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from benchmarks import models, texts
from benchmarks.compare import timed
from benchmarks.provenance import provenance
from tokensurgeon.evaluation.drafts import DraftOptions, generate_with, take_prompts
from tokensurgeon.evaluation.model import LoadedModel, load_model

RESULTS = Path(__file__).parent / "results"


def main(path: Path, only: Iterable[str] = (), results: Path = RESULTS) -> None:
    """Run the pairs and write one result file each."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    results.mkdir(exist_ok=True)
    for name in only or experiment["pairs"]:
        pair = experiment["pairs"][name]
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-drafts-") as work:
            found = run(pair, experiment["generation"], experiment["texts"], Path(work))
        settings = {key: experiment[key] for key in ("generation", "texts")} | {"methods": pair["methods"]}
        result = provenance(path.stem) | {"settings": settings, "title": pair["title"], "sides": found}
        (results / f"{path.stem}_{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def run(pair: dict[str, Any], generation: dict[str, Any], corpora: list[str], work: Path) -> dict[str, Any]:
    """One pair: transplants by every method, then all sides in turn."""
    base, target = (getattr(models, pair[side])() for side in ("draft", "target"))
    sides: dict[str, LoadedModel | None] = {"no draft": None}
    for number, (method, options) in enumerate(pair["methods"].items()):
        out = work / str(number)
        made = timed([".venv/bin/tokensurgeon", str(base), str(target), "--out", str(out), *options, "--quiet"])
        print(method, f"{made['wall_s']:.0f} s", flush=True)
        sides[method] = load_model(out)
    sides["untouched, universal assisted decoding"] = load_model(base)
    options = DraftOptions(**generation)
    found = texts.documents(1 << 16)
    prompts = take_prompts(["\n\n".join("".join(d) for d in found[name]) for name in corpora], options)

    def tell(_stage: str, done: int, total: int) -> None:
        if done % len(sides) == 0:
            print(f"{done} of {total}", flush=True)

    return generate_with(load_model(target), sides, prompts, options, tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
