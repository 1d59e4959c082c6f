"""Healing in two processes beside one with twice the batch: the same curve.

    python -m benchmarks.experiments.heal_processes benchmarks/experiments/heal_processes.toml

``accelerate launch`` starts several processes on GPUs; on a CPU torchrun, which it calls there, does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed

RESULTS = Path(__file__).parents[1] / "results"
LAUNCHERS = {1: ["-m"], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]}
_OWN = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ACCELERATE_MIXED_PRECISION": "no"}


def main(path: Path) -> None:
    """Train both from the same transplant, and write both curves."""
    experiment = tomllib.loads(path.read_text())
    base, donor = (str(getattr(models, experiment[side])()) for side in ("base", "donor"))
    result, curves = provenance(path.stem), dict[str, Any]()
    result["hardware"]["threads"] = int(_OWN["OMP_NUM_THREADS"])
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-heal-") as work:
        start = str(Path(work) / "start")
        timed([".venv/bin/tokensurgeon", base, donor, "--out", start, *experiment["transplant"], "--quiet"])
        for processes, launcher in LAUNCHERS.items():
            each = experiment["pieces"] // processes
            out = str(Path(work) / str(processes))
            command = [sys.executable, *launcher, "tokensurgeon", "heal", start, "--teacher", base, "--out", out]
            command += ["--batch", str(each), *experiment["options"], "--json"]
            done = subprocess.run(command, env=os.environ | _OWN, stdout=subprocess.PIPE, check=True, text=True)
            curves[f"{processes} x {each}"] = json.loads(done.stdout)["curve"]
            print(processes, [entry["held_out"] for entry in curves[f"{processes} x {each}"]], flush=True)
    one, two = curves.values()
    apart = max(abs(a[key] - b[key]) for a, b in zip(one, two, strict=True) for key in ("held_out", "other"))
    result |= {"settings": experiment, "curves": curves, "largest_difference": apart}
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
