"""Experiments that write one result file per pair of models."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common.provenance import provenance

RESULTS = Path(__file__).parents[1] / "results"

One = Callable[[dict[str, Any], dict[str, Any], Path], tuple[dict[str, Any], dict[str, Any]]]
"""From the experiment, the pair and a directory to work in: settings, and what was found."""


def pair_title(result: dict[str, Any]) -> str:
    """Of the pair that a result is of; what follows a comma in its own title says which further sides it has."""
    return str(result["title"]).partition(", ")[0]


def run_pairs(path: Path, only: Iterable[str], one: One) -> None:
    """Measure the experiment's pairs, or some of them, and write each one's result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    RESULTS.mkdir(exist_ok=True)
    for name in only or experiment["pairs"]:
        pair, begun = experiment["pairs"][name], provenance(path.stem)
        with tempfile.TemporaryDirectory(prefix=f"tokensurgeon-{path.stem}-") as work:
            settings, found = one(experiment, pair, Path(work))
        result = begun | {"settings": settings, "title": pair["title"]} | found
        (RESULTS / f"{path.stem}_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
