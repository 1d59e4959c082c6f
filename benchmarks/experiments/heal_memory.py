"""How much memory healing takes, by the operating system's own accounting.

    python -m benchmarks.experiments.heal_memory benchmarks/experiments/heal_memory.toml

A few updates are enough: the peak is in the first.
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path) -> None:
    """Heal what each side names, and write the peaks."""
    experiment = tomllib.loads(path.read_text())
    base, donor = (str(getattr(models, experiment[side])()) for side in ("base", "donor"))
    result = provenance(path.stem) | {"settings": experiment, "sides": {}}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-heal-") as work:
        start = str(Path(work) / "start")
        timed([".venv/bin/tokensurgeon", base, donor, "--out", start, *experiment["transplant"], "--quiet"])
        given = {"base": base, "transplant": start}
        for number, (side, how) in enumerate(experiment["sides"].items()):
            command = [".venv/bin/tokensurgeon", "heal", given[how["model"]], "--teacher", base, *how["options"]]
            result["sides"][side] = timed([*command, "--out", str(Path(work) / str(number)), "--quiet"])
            print(side, result["sides"][side], flush=True)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
