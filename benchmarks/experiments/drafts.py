"""How well a small model drafts for another one once it has its tokenizer.

    python -m benchmarks.experiments.drafts benchmarks/experiments/drafts.toml [PAIR ...]

Every side generates from the same prompts, in turn: no draft, one transplant per method, and the untouched draft by
transformers' universal assisted decoding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.common import models, texts
from benchmarks.common.pairs import run_pairs
from benchmarks.common.timing import timed
from tokensurgeon.evaluation.drafts import DraftOptions, generate_with, take_prompts
from tokensurgeon.evaluation.loading import LoadedModel, load_model


def main(path: Path, only: Iterable[str] = ()) -> None:
    """Run the pairs and write one result file each."""
    run_pairs(path, only, one)


def one(experiment: dict[str, Any], pair: dict[str, Any], work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and sides of a pair."""
    settings = {key: experiment[key] for key in ("generation", "texts")} | {"methods": pair["methods"]}
    return settings, {"sides": run(pair, experiment["generation"], experiment["texts"], work)}


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
    prompts = take_prompts([["\n\n".join("".join(d) for d in found[name])] for name in corpora], options)

    def tell(_stage: str, done: int, total: int) -> None:
        if done % len(sides) == 0:
            print(f"{done} of {total}", flush=True)

    return generate_with(load_model(target), sides, prompts, options, tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
