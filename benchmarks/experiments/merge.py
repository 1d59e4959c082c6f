"""Merges of models whose tokenizers differ, beside the same merges where they do not.

    python -m benchmarks.experiments.merge benchmarks/experiments/merge.toml [round_trip|merges ...]

1. The round trip: SmolLM2 with Gemma-3's tokenizer, merged with SmolLM2 into SmolLM2's ids, should be SmolLM2 again.
2. Two fine-tunes of SmolLM2, one of them with Gemma-3's tokenizer: ours, mergekit's ``tokenizer_source: union``, and
   the same merges of the two as they were trained.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common import intervals, models
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from benchmarks.experiments.finetunes import SETTINGS, finetunes, held_out, score
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.manifest import Manifest

RESULTS = Path(__file__).parents[1] / "results"
OURS = [sys.executable, "-m", "tokensurgeon"]
MERGEKIT = [sys.executable, "-m", "benchmarks.peers.union"]
PARTS = ("round_trip", "merges")


def main(path: Path, only: Iterable[str] = (), results: Path = RESULTS) -> None:
    """Run the experiment's parts, and write their result; a part that is not run keeps what it had."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    place = results / f"{path.stem}.json"
    before = json.loads(place.read_text()) if place.is_file() else {}
    result: dict[str, Any] = provenance(path.stem) | {
        "settings": experiment, "finetunes": SETTINGS, "mergekit": version("mergekit"),
        **{part: before[part] for part in PARTS if part in before},
    }  # fmt: skip
    given = {"base": models.smollm2(), **finetunes()}
    gemma = models.gemma()
    for part in only or PARTS:
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-merge-") as folder:
            os.environ["TOKENSURGEON_CACHE"] = str(Path(folder) / "cache")
            pieces = held_out(experiment["bytes"][part])
            run = round_trip if part == "round_trip" else merges
            for result[part] in run(experiment, given, gemma, pieces, Path(folder)):
                place.write_text(json.dumps(result, indent=1) + "\n")


def round_trip(
    experiment: dict[str, Any], given: dict[str, Path], gemma: Path, pieces: dict[str, list[str]], work: Path
) -> Iterator[dict[str, Any]]:
    """There and back again: how much of the model is bit for bit the same, and its bits per byte."""
    base, there = given["base"], work / "there"
    timed([*OURS, str(base), str(gemma), "--out", str(there), *experiment["transplant"], "--quiet"])
    before = score(base, pieces)
    found: dict[str, Any] = {"untouched": intervals.bits_per_byte(before)}
    for choice in experiment["round_trip"]["embeddings"]:
        block = experiment["tokensurgeon"] | {"tokenizer": str(base), "embeddings": choice}
        merge(recipe({"method": "linear", "parameters": {"weight": 0.5}}, there, base, base), work, block)
        after = score(work / "out", pieces)
        found[choice] = {
            "bits_per_byte": intervals.bits_per_byte(after), "difference": intervals.loss(after, before),
            **same(base, work / "out"),
        }  # fmt: skip
        shutil.rmtree(work / "out")
        print(choice, found[choice], flush=True)
        yield found


def same(old: Path, new: Path) -> dict[str, Any]:
    """Tensors, and rows of the embedding, that are bit for bit the same; rows by what the merge did with them."""
    a, b = Checkpoint.open(old), Checkpoint.open(new)
    equal = {name: torch.equal(a.read(name), b.read(name)) for name in a.tensors}
    manifest = Manifest.read(new)
    if manifest is None:
        raise ValueError(f"{new} has no manifest")
    name = "model.embed_tokens.weight"
    rows = (a.read(name) == b.read(name)).all(dim=1)
    merged = torch.from_numpy(manifest.plan.source < 0) & torch.from_numpy(manifest.plan.provenance == 0)
    return {
        "tensors": len(equal), "same_tensors": sum(equal.values()), "rows": len(rows), "same_rows": int(rows.sum()),
        "anchors": int(merged.sum()), "same_anchors": int(rows[merged].sum()),
        "merge": manifest.content["merge"]["rows"]["embedding"],
    }  # fmt: skip


def merges(
    experiment: dict[str, Any], given: dict[str, Path], gemma: Path, pieces: dict[str, list[str]], work: Path
) -> Iterator[dict[str, Any]]:
    """Every merge three times: with the fine-tunes as they are, with one transplanted, and by mergekit's union."""
    moved = work / "moved"
    timed([*OURS, str(given["python"]), str(gemma), "--out", str(moved), *experiment["transplant"], "--quiet"])
    found: dict[str, Any] = {"models": {}, "merges": {}}
    for name, directory in {**given, "python, transplanted": moved}.items():
        found["models"][name] = intervals.bits_per_byte(score(directory, pieces))
        print(name, found["models"][name], flush=True)
    for name, settings in experiment["merges"].items():
        first, plain = given["wikitext2"], {"method": name, **settings}
        same_ids, ours = (recipe(plain, first, second, given["base"]) for second in (given["python"], moved))
        theirs = {"base_model": str(first), **ours, "tokenizer_source": "union"}
        merge(same_ids, work, None)
        reference = score(work / "out", pieces)
        sides = {"as they are": reference}
        shutil.rmtree(work / "out")
        merge(ours, work, experiment["tokensurgeon"] | {"tokenizer": str(given["base"])})
        sides["tokensurgeon"] = score(work / "out", pieces)
        shutil.rmtree(work / "out")
        merge(theirs, work, None)
        sides["union"] = score(work / "out", pieces)
        shutil.rmtree(work / "out")
        found["merges"][name] = {
            side: {"bits_per_byte": intervals.bits_per_byte(of), "over_as_they_are": intervals.loss(of, reference)}
            for side, of in sides.items()
        }
        print(name, {side: row["bits_per_byte"] for side, row in found["merges"][name].items()}, flush=True)
        yield found


def recipe(settings: dict[str, Any], first: Path, second: Path, origin: Path) -> dict[str, Any]:
    """A mergekit recipe for two models."""
    made: dict[str, Any] = {"merge_method": settings["method"]}
    if "base" in settings:
        made["base_model"] = str(first if settings["base"] == "first" else origin)
    made["models"] = [
        {"model": str(model), **({"parameters": settings["parameters"]} if "parameters" in settings else {})}
        for model in (first, second)
    ]
    return made | ({"parameters": settings["settings"]} if "settings" in settings else {})


def merge(content: dict[str, Any], work: Path, block: dict[str, Any] | None) -> None:
    """By our command where there is a block for it, otherwise by mergekit's own."""
    path = work / "recipe.yaml"
    path.write_text(json.dumps(content | ({"tokensurgeon": block} if block is not None else {})))  # JSON is YAML
    if block is not None:
        timed([*OURS, "merge", str(path), "--out", str(work / "out"), "--quiet"])
    else:
        timed([*MERGEKIT, str(path), str(work / "out"), "--quiet", "--random-seed", "0"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
