"""Where the time of whole commands goes: by stage, as their manifests say, with peers beside them.

    python -m benchmarks.experiments.stages benchmarks/experiments/stages.toml

All commands of a pair run in turn, each into a directory of its own. Wall time, processor time and peak memory are the
operating system's own; a command that writes no manifest, such as a peer's, has no stages. With ``revision`` an earlier
state of this repository lies in ``{before}``, and needs nothing that is not installed.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from tokensurgeon.checkpoint.manifest import Manifest

RESULTS = Path(__file__).parents[1] / "results"
_MEASURES = ("wall_s", "cpu_s", "peak_mib")


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "pairs": {}}
    for pair in experiment["pairs"]:
        result["pairs"][pair["title"]] = _measured(pair, experiment)
        results.mkdir(exist_ok=True)
        (results / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")


def _measured(pair: Mapping[str, Any], experiment: Mapping[str, Any]) -> dict[str, Any]:
    sides = {name: _directory(pair[name]) for name in ("base", "donor")}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pair["commands"]}
    commands: Mapping[str, Sequence[str]] = experiment["commands"]
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-stages-") as work:
        if revision := experiment.get("revision"):
            sides["before"] = str(Path(work) / "before")
            subprocess.run(["git", "clone", "--quiet", "--shared", ".", sides["before"]], check=True)
            subprocess.run(["git", "-C", sides["before"], "checkout", "--quiet", revision], check=True)
        for _ in range(experiment["repeats"]):
            for name in pair["commands"]:
                out = Path(work) / "out"
                run: dict[str, Any] = timed([part.format(**sides, out=out) for part in commands[name]])
                manifest = Manifest.read(out)
                content = {} if manifest is None else manifest.content
                runs[name].append(run | {"stages": content.get("stages", []), "loss": content.get("loss")})
                print(pair["title"], name, {measure: run[measure] for measure in _MEASURES}, flush=True)
                shutil.rmtree(out)
    return {name: _summary(of) for name, of in runs.items()}


def _directory(name: str) -> str:
    """A model's directory, by its name in `benchmarks.common.models` or by its path."""
    return str(getattr(models, name)()) if hasattr(models, name) else name


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stages = [
        {"stage": same[0]["stage"]}
        | {measure: statistics.median(stage[measure] for stage in same) for measure in ("seconds", "peak_mib")}
        for same in zip(*(run["stages"] for run in runs), strict=True)
    ]
    medians = {f"median_{measure}": statistics.median(run[measure] for run in runs) for measure in _MEASURES}
    loss = runs[0]["loss"]
    return medians | {"stages": stages, "loss": loss and loss["loss"], "runs": [run["wall_s"] for run in runs]}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
