"""Let `--method auto` choose, without making all rows: its trials alone.

    python -m benchmarks.experiments.choices benchmarks/experiments/choices.toml [PAIR ...]

Each pair has a result file of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import models
from benchmarks.common.provenance import provenance
from benchmarks.experiments.fidelity import read_experiment
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.surgery.body import ask_base
from tokensurgeon.surgery.new_rows import pick_method
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import Pair, align_sides
from tokensurgeon.transfer.rows import drop_rowless

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, only: list[str], results: Path = RESULTS) -> None:
    """Every pair, or some; one result each."""
    experiment = read_experiment(path)
    for name in only or experiment["pairs"]:
        pair = experiment["pairs"][name]
        base, donor = (str(getattr(models, pair[side])()) for side in ("base", "donor"))
        result = provenance(f"{path.stem} {name}") | {"title": pair["title"], "minutes": experiment["minutes"]}
        result |= chosen(base, donor, experiment["minutes"])
        (results / f"{path.stem}_{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def chosen(base: str, donor: str, minutes: float) -> dict[str, Any]:
    """The choice, as a manifest has it, and how many seconds it took beside what every transplant reads."""
    options = TransplantOptions(method="auto", method_options={"minutes": minutes})
    left, right = OpenModel.open(base), OpenModel.open(donor, "vocabulary")
    theirs = right.matrices()
    pair = Pair(left, right, left.matrices(), theirs, drop_rowless(align_sides(left, right, options)[0], theirs))
    loaded, asked = ask_base(pair, options, {}, None)
    started = time.perf_counter()
    choice = pick_method(pair, loaded, asked, options, {}, None).choice
    assert choice is not None  # what `auto` is
    return {"choice": choice.as_dict(), "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
