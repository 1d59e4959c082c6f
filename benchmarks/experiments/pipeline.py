"""Shipped recipes on real models, each by one command: what every evaluation in them found.

    TOKENSURGEON_EVAL=DIR python -m benchmarks.experiments.pipeline benchmarks/experiments/pipeline.toml [RUN ...]

Fine-tunes are those of `benchmarks.experiments.finetunes`; what is measured on is text that nothing was trained on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import tokensurgeon.pipelines
from benchmarks.common import models, texts
from benchmarks.common.pairs import run_pairs
from benchmarks.common.timing import timed
from benchmarks.experiments.finetunes import SHORT, finetunes
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.texts import python_text, split_bytes

RECIPES = Path(tokensurgeon.pipelines.__file__).parent / "recipes"
_STOPPED = ("may lose at most", "must gain at least")
"""A gate that is not kept to is a result too."""


def main(path: Path, only: Iterable[str] = ()) -> None:
    """Run the recipes and write one result file each."""
    texts.required_directory()
    run_pairs(path, only, one)


def one(experiment: dict[str, Any], run: dict[str, Any], work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a run, time of its command, whether its gates were kept to, and what each evaluation found."""
    sizes = {name: experiment[name] for name in ("train_bytes", "test_bytes")}
    given = {name: model(of, work / name) for name, of in run["models"].items()}
    for name, corpus in run["texts"].items():
        given[name], given[f"{name.removesuffix('-text')}-test"] = prepared(corpus, work / name, **sizes)
    recipe = yaml.safe_load((RECIPES / f"{run['recipe']}.yaml").read_text())
    given = {name: value for name, value in (given | run.get("inputs", {})).items() if name in recipe["inputs"]}
    out = work / "out"
    line = [".venv/bin/tokensurgeon", "run", run["recipe"], "--out", str(out), "--quiet"]
    line += [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    begun = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode and not any(words in done.stderr for words in _STOPPED):
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = {"seconds": round(time.perf_counter() - begun, 1), "gates_kept": not done.returncode}
    found["stages"] = {stage: scores(out / f"{stage}.json") for stage in measuring(recipe)}
    found["training"] = {place.parent.name: trained(place.parent) for place in sorted(out.glob("*/tokensurgeon.json"))}
    print(json.dumps(found["stages"]), flush=True)
    return sizes | run, found


def model(of: dict[str, str] | str, work: Path) -> Path:
    """A model by its name, or a fine-tune of SmolLM2 (``tuned``), with the tokenizer of another (``tokenizer``)."""
    if isinstance(of, str):
        made: Path = getattr(models, of)()
        return made
    tuned = finetunes(SHORT)[of["tuned"]]
    if "tokenizer" in of:
        donor = getattr(models, of["tokenizer"])()
        timed([".venv/bin/tokensurgeon", str(tuned), str(donor), "--out", str(work), "--method", "ridge", "--quiet"])
        return work
    return tuned


def prepared(corpus: str, place: Path, train_bytes: int, test_bytes: int) -> tuple[Path, Path]:
    """Files to train and to measure on, of different documents."""
    size = train_bytes + test_bytes
    pieces = split_bytes(python_text(size, 3)) if corpus == "python" else texts.corpora(size)[corpus]
    behind, cut = 0, len(pieces)
    while behind < test_bytes:
        cut -= 1
        behind += len(pieces[cut].encode())
    files = place.with_name(f"{place.name}.txt"), place.with_name(f"{place.name}-test.txt")
    for file, some in zip(files, (pieces[:cut], pieces[cut:]), strict=True):
        file.write_text("\n".join(some))
    return files


def measuring(recipe: dict[str, Any]) -> list[str]:
    """The stages of a recipe that measure, in order."""
    return [stage["name"] for stage in recipe["stages"] if "evaluate" in stage]


def scores(path: Path) -> dict[str, Any] | None:
    """Bits per byte by text, of the stage's model and of what it is compared with; None where it was not come to."""
    if not path.is_file():
        return None
    return {
        name: {Path(text).stem: one["bits_per_byte"] for text, one in of["texts"].items()}
        for name, of in zip(("model", "against"), json.loads(path.read_text()).values(), strict=False)
    }


def trained(directory: Path) -> dict[str, Any] | None:
    """How a stage trained, if it did."""
    manifest = Manifest.read(directory)
    runs = manifest.content.get("healed", {}).get("runs") if manifest is not None else None
    return {key: runs[-1][key] for key in ("steps", "tokens", "seconds", "curve", "best")} if runs else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
