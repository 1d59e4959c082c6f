"""What each hostile input of the tests' table gives: the exit code, the line, the seconds, and what is left behind.

    python -m benchmarks.experiments.hostile benchmarks/experiments/hostile.toml

An input that takes the process down ends the run, and one that takes more memory than `tests/hostile/attempts.py` gives
shows in its line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import provenance

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(ROOT / "tests" / "hostile"), str(ROOT / "tests")]
    from attempts import attempt
    from test_table import ROWS
    from world import build

    experiment = tomllib.loads(path.read_text())
    only = experiment["only"] or [""]
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment}
    inputs = []
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-hostile-") as work:
        world = build(Path(work) / "world")
        for row in ROWS:
            if not row.title.startswith(tuple(only)):
                continue
            with tempfile.TemporaryDirectory(dir=work) as place:
                outcome = attempt(row, world, Path(place))
            inputs.append({"command": row.command, "file": row.file, "what": row.name, **outcome._asdict()})
            inputs[-1]["seconds"] = round(outcome.seconds, 2)
            print(f"{outcome.exit} {row.title[:60]}: {outcome.line[:100]}", flush=True)
    result |= {"summary": _summary(inputs), "inputs": inputs}
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _summary(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of each command are used, refused in a line, and refused without one."""
    kinds: dict[str, Counter[str]] = {}
    for one in inputs:
        untyped = "--debug" in one["line"] or not one["line"].startswith("error: ")
        kind = "used" if one["exit"] != 2 else "untyped" if untyped else "refused in one line"
        kinds.setdefault(one["command"], Counter())[kind] += 1
    left = sum(bool(one["left"]) for one in inputs)
    return {"inputs": len(inputs), "left something": left, "by command": {name: dict(of) for name, of in kinds.items()}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
