"""The recipe *domain* from one command: text of the domain and general text before and behind each stage.

TOKENSURGEON_EVAL=DIR python -m benchmarks.experiments.pipeline benchmarks/experiments/pipeline.toml
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from tokensurgeon.checkpoint.manifest import Manifest

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path) -> None:
    """Run the pipeline and write the result."""
    experiment = tomllib.loads(path.read_text())
    texts.required_directory()
    result = provenance(path.stem) | {"settings": experiment}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-pipeline-") as work:
        result |= run(experiment, Path(work))
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def run(experiment: dict[str, Any], work: Path) -> dict[str, Any]:
    """Time of the command, and what each evaluation of it found."""
    model, out = getattr(models, experiment["model"])(), work / "out"
    given = {"model": model, **prepared(experiment, work), **experiment["inputs"]}
    line = [".venv/bin/tokensurgeon", "run", "domain", "--out", str(out), "--quiet"]
    begun = time.perf_counter()
    line += [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode and "may lose at most" not in done.stderr:  # the last gate may say so: that is a result too
        raise RuntimeError(done.stderr)
    seconds = round(time.perf_counter() - begun, 1)
    found: dict[str, Any] = {"seconds": seconds, "gate_kept": not done.returncode, "stages": {}}
    for stage in ("before", "after-extending", "after-training", "after-merging"):
        scores = next(iter(json.loads((out / f"{stage}.json").read_text()).values()))
        found["stages"][stage] = {
            Path(name).stem: {"bits_per_byte": one["bits_per_byte"], "tokens": one["tokens"], "bytes": one["bytes"]}
            for name, one in scores["texts"].items()
        }
        print(stage, found["stages"][stage], flush=True)
    manifest = Manifest.read(out / "trained")
    healed = manifest.content["healed"]["runs"][-1] if manifest is not None else {}
    found["training"] = {key: healed[key] for key in ("steps", "tokens", "seconds", "trained_rows", "curve", "best")}
    return found


def prepared(experiment: dict[str, Any], work: Path) -> dict[str, Path]:
    """Files to train and to measure on, of different documents."""
    found, size = {}, experiment["train_bytes"] + experiment["test_bytes"]
    for name, corpus in experiment["texts"].items():
        pieces = texts.corpora(size)[corpus]
        behind, cut = 0, len(pieces)
        while behind < experiment["test_bytes"]:
            cut -= 1
            behind += len(pieces[cut].encode())
        for file, some in ((name, pieces[:cut]), (f"{name}-test", pieces[cut:])):
            found[file] = work / f"{file}.txt"
            found[file].write_text("\n".join(some))
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
