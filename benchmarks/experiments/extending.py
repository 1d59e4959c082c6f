"""More tokens: ``tokensurgeon extend`` by method.

python -m benchmarks.experiments.extending benchmarks/experiments/extending.toml
"""

from __future__ import annotations

import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models, texts
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from benchmarks.experiments.trimming import bits
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import split_bytes

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path) -> None:
    """Run every side and write the result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    result = provenance(path.stem) | {"settings": experiment}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-extending-") as work:
        result |= extended(experiment, Path(work))
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def extended(experiment: dict[str, Any], work: Path) -> dict[str, Any]:
    """Tokens per byte, and bits per byte of text that the tokens were not learnt from, by method."""
    base, donor = (getattr(models, experiment[name])() for name in ("model", "donor"))
    whole = "\n".join(piece for document in texts.documents(1 << 20)["arxiv"] for piece in document)
    pieces = split_bytes(whole)
    learn = work / "arxiv.txt"
    learn.write_text("".join(pieces[: -len(pieces) // 6]))
    measured = pieces[-len(pieces) // 6 :][: experiment["bytes"] // 2048]
    found: dict[str, Any] = {"learnt_from_bytes": learn.stat().st_size, "untouched": bits(load_model(base), measured)}
    found["sides"] = {}
    for side, options in experiment["sides"].items():
        out = work / f"extended-{side}"
        command = [".venv/bin/tokensurgeon", "extend", str(base), "--text", str(learn), "--add", str(experiment["add"])]
        row: dict[str, Any] = timed([*command, "--out", str(out), "--quiet", *(o.format(donor=donor) for o in options)])
        manifest = Manifest.read(out)
        row |= {"measured": bits(load_model(out), measured), "told": manifest.content["extended"] if manifest else {}}
        found["sides"][side] = row
        print(side, row, flush=True)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
