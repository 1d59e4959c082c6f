"""The same tasks by lm-evaluation-harness, so that figures can be compared with other people's.

    python -m benchmarks.experiments.lm_eval benchmarks/experiments/lm_eval.toml

The harness runs in an environment of its own (`make bench-lm-eval`), on the evaluation sets at hand
(TOKENSURGEON_EVAL), with prompts and metrics as in its own tasks of these names; only the items differ. Our own
scoring of the same items stands beside it.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import transformers

from benchmarks.common import models, texts
from benchmarks.common.measures import CHOICES, answers, completed
from benchmarks.common.provenance import provenance
from tokensurgeon.evaluation.loading import load_model

RESULTS = Path(__file__).parents[1] / "results"
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{query.strip()}}\nAnswer:",
    "doc_to_target": "gold",
    "doc_to_choice": "choices",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
_LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' '+continuation}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
TASKS = {"lambada": _LAST_WORD, "arc_easy": _CHOICE, "piqa": _CHOICE}


def main(path: Path) -> None:
    """Make the models, run the harness and our own scoring on each, write the result."""
    transformers.logging.set_verbosity_error()
    directory = texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    base, donor = (str(getattr(models, experiment[side])()) for side in ("base", "donor"))
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "models": {}}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-lm-eval-") as work:
        _write_tasks(Path(work) / "tasks", directory, experiment["items"])
        for name, command in {"untouched base": [], **experiment["commands"]}.items():
            out = Path(base) if not command else Path(work) / "out"
            if command:
                subprocess.run([part.format(base=base, donor=donor, out=out) for part in command], check=True)
            entry = {"harness": _harness(experiment, out, Path(work)), "own": _own(out, experiment["items"])}
            result["models"][name] = entry
            print(name, json.dumps(entry), flush=True)
            if command:
                shutil.rmtree(out)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def _write_tasks(tasks: Path, directory: Path, items: int) -> None:
    tasks.mkdir()
    for task, settings in TASKS.items():
        lines = (directory / f"{task}_dev.jsonl").read_text().splitlines()[:items]
        (tasks / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tasks / f"{task}.jsonl")}}}
        content = {"task": f"own_{task}", **data, "test_split": "test", **settings}
        (tasks / f"{task}.yaml").write_text(json.dumps(content))  # JSON is YAML


def _harness(experiment: dict[str, Any], model: Path, work: Path) -> dict[str, dict[str, float]]:
    names = ",".join(f"own_{task}" for task in TASKS)
    out = work / "harness"
    subprocess.run(
        [
            experiment["python"], "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "8",
            "--model_args", f"pretrained={model},dtype=float32,add_bos_token=True", "--tasks", names,
            "--include_path", str(work / "tasks"), "--output_path", str(out),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    newest = max(out.rglob("results_*.json"), key=lambda path: path.stat().st_mtime)
    found = json.loads(newest.read_text())["results"]
    return {
        task: {name.removesuffix(",none"): value for name, value in found[f"own_{task}"].items() if "acc" in name}
        for task in TASKS
    }


def _own(model: Path, items: int) -> dict[str, float]:
    loaded = load_model(model)
    right = {task: answers(loaded, task, items) for task in CHOICES}
    right["lambada"] = [int(score.greedy) for score in completed(loaded, "lambada", items)]
    return {task: statistics.fmean(of) for task, of in right.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
