"""What a transplant reads, writes and needs when the model is large.

    python -m benchmarks.experiments.scale benchmarks/experiments/scale.toml

The checkpoints are made for the purpose. Time, peak memory (file pages that are mapped included) and blocks read from
and written to the disk are the operating system's own; the page cache is dropped before every command where that is
allowed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.synthetic import build
from benchmarks.common.timing import timed
from benchmarks.experiments.fidelity import peer_version
from tokensurgeon.checkpoint.manifest import Manifest

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "mergekit": peer_version(), "models": {}}
    donor = getattr(models, experiment["donor"])()
    tokenizer = getattr(models, experiment["tokenizer"])()
    for name, model in experiment["models"].items():
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-scale-") as work:
            base = Path(work) / "base"
            sizes = build(base, tokenizer, model["shape"], sparse=model["sparse"], shard_gib=model["shard_gib"])
            sides = {
                side: measure(experiment["commands"][side], base, donor, Path(work) / "out", model["repeats"])
                for side in model["sides"]
            }
            result["models"][name] = {"bytes": sizes, "sides": sides}
            print(name, json.dumps(result["models"][name], indent=1), flush=True)
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def measure(command: list[str], base: Path, donor: Path, out: Path, repeats: int) -> dict[str, Any]:
    """Medians of some runs of a command, and what ours says about the tensors involved."""
    runs = []
    for _ in range(repeats):
        shutil.rmtree(out, ignore_errors=True)
        _forget(base)
        runs.append(timed([part.format(base=base, donor=donor, out=out) for part in command]))
    found: dict[str, Any] = {
        "runs": runs,
        **{f"median_{what}": statistics.median(run[what] for run in runs) for what in runs[0]},
    }
    manifest = Manifest.read(out)
    if manifest is not None:
        rows = manifest.plan.n_rows
        wide = manifest.content["base"]["dim"]
        found["output_vocabulary_bytes"] = 2 * 2 * rows * wide
    shutil.rmtree(out)
    return found


def _forget(directory: Path) -> None:
    """Have files read from the disk, not from the page cache; what was just written would come from there."""
    os.sync()
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
