"""Our merge methods beside plain averaging, on fine-tunes of SmolLM2: the two, or those of the texts that a file names.

    python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_methods.toml
    python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_steps.toml
    python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_interference.toml
    python -m benchmarks.experiments.merge_methods benchmarks/experiments/merge_three.toml

Every merge goes through mergekit, which lives in an environment of its own. Fisher information and DAM's coefficients
come from the fine-tunes' training texts, and so do the metrics; bits per byte from text that none has read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file

from benchmarks.common import intervals, models
from benchmarks.common.provenance import provenance
from benchmarks.common.timing import timed
from benchmarks.experiments.finetunes import SETTINGS, SHORT, TEXTS, Scores, finetunes, held_out, score, training_text
from benchmarks.experiments.scale import peer_version
from tokensurgeon.evaluation.texts import split_bytes
from tokensurgeon.merging.estimate.pieces import group_of

RESULTS = Path(__file__).parents[1] / "results"
OURS, MERGEKIT = ".venv/bin/tokensurgeon", [".venv-peers/bin/python", "-m", "tokensurgeon.merging"]


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # our methods in the peer's environment
    experiment = tomllib.loads(path.read_text())
    trained = SHORT if experiment.get("short") else SETTINGS
    texts = experiment.get("texts", TEXTS)
    base, tuned = models.smollm2(), finetunes(trained, texts)
    result: dict[str, Any] = provenance(path.stem) | {
        "settings": experiment, "finetunes": trained, "mergekit": peer_version(), "sides": {}
    }  # fmt: skip
    pieces = held_out(experiment["bytes"], texts)
    scores = {name: score(of, pieces) for name, of in {"base": base, **tuned}.items()}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-merge-") as place:
        work = Path(place)
        values, result["prepared"] = prepare(experiment, tuned, work)
        for side, settings in experiment["sides"].items():
            (work / "recipe.json").write_text(json.dumps(recipe(settings, base, tuned, values)))  # JSON is YAML
            run = timed([*MERGEKIT, str(work / "recipe.json"), str(work / "out"), "--quiet"])
            scores[side] = score(work / "out", pieces)
            result["sides"][side] = {"merge": run, "length": length(work / "out", base)}
            shutil.rmtree(work / "out")
            print(side, figures(scores[side], scores["base"]), flush=True)
    lengths = {side: of["length"] for side, of in result["sides"].items()}
    for side in lengths if "curve" in experiment else ():
        if side not in experiment["curve"]:
            same = at_length(lengths[side], {name: (lengths[name], scores[name]) for name in experiment["curve"]})
            result["sides"][side]["over_same_length"] = intervals.loss(scores[side], same)
    for name, found in scores.items():
        of = result["sides"].setdefault(name, {})
        of |= figures(found, scores["base"]) | {"over_mean": intervals.loss(found, scores["plain mean"])}
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=1) + "\n")


def prepare(
    experiment: dict[str, Any], tuned: dict[str, Path], work: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What recipes need, by model (and for all), and what it took."""
    trained = {kind: str(work / f"{kind}.safetensors") for kind in ("dam", "expert", "fw")}
    values: dict[str, dict[str, Any]] = {name: {**trained} for name in tuned}
    prepared: dict[str, Any] = {"fisher": {}, "metric": {}}
    texts = {name: training_text(name) for name in tuned}
    for name, model in tuned.items():
        (work / f"{name}.txt").write_text(texts[name])
        if "fisher" not in experiment:
            continue
        values[name]["fisher"] = str(work / f"{name}.safetensors")
        command = [OURS, "fisher", str(model), "--text", str(work / f"{name}.txt"), "--out", values[name]["fisher"]]
        prepared["fisher"][name] = timed([*command, *experiment["fisher"], "--quiet"])
        read = {of: split_bytes(text)[: experiment["metric_bytes"] // 2048] for of, text in texts.items()}
        values[name]["metric"] = intervals.bits_per_byte(score(model, read))["mean"]
        prepared["metric"][name] = values[name]["metric"]
    named = [part for name in tuned for part in ("--text", str(work / f"{name}.txt"))]
    for kind, out in trained.items():
        if kind in experiment:
            command = [OURS, "dam", *map(str, tuned.values()), *named, "--out", out, "--quiet", *experiment[kind]]
            prepared[kind] = timed([*command, *(["--base", str(models.smollm2())] if kind == "expert" else [])])
            if kind != "dam":
                found = {group_of(name, "layer"): of.tolist() for name, of in load_file(out).items()}
                prepared[kind]["coefficients"] = found
    print(prepared, flush=True)
    return values, prepared


def recipe(
    settings: dict[str, Any], base: Path, tuned: dict[str, Path], values: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A mergekit configuration; ``{name}`` stands for what was prepared."""

    def filled(parameters: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
        return {k: of[v[1:-1]] if isinstance(v, str) and v.startswith("{") else v for k, v in parameters.items()}

    each = settings.get("of_each", {})
    listed = [{"model": str(model), "parameters": filled(each, values[name])} for name, model in tuned.items()]
    shared = filled(settings.get("parameters", {}), next(iter(values.values())))
    based = {"base_model": str(base)} if settings.get("base") else {}
    return {
        "merge_method": settings["merge_method"], "models": listed, "parameters": shared, "dtype": "float32",
    } | based  # fmt: skip


def length(directory: Path, base: Path) -> float:
    """Norm of what a merge adds to the base, over all weights."""
    tensors, before = (load_file(of / "model.safetensors") for of in (directory, base))
    return math.sqrt(sum(float((tensor - before[name]).double().square().sum()) for name, tensor in tensors.items()))


def at_length(wanted: float, curve: dict[str, tuple[float, Scores]]) -> Scores:
    """What task arithmetic of a length would score, between its two nearest lengths; at the ends, what the end does."""
    points = sorted(curve.values(), key=lambda point: point[0])
    above = next((number for number, (length, _) in enumerate(points) if length >= wanted), len(points) - 1)
    (short, one), (long, other) = points[max(0, above - 1)], points[above]
    share = min(1.0, (wanted - short) / (long - short)) if long > short else 0.0
    return {
        name: [
            {"nats": (1 - share) * a["nats"] + share * b["nats"], "bytes": a["bytes"]}
            for a, b in zip(of, other[name], strict=True)
        ]
        for name, of in one.items()
    }


def figures(found: Scores, base: Scores) -> dict[str, Any]:
    """Bits per byte on every text, and what was gained on the base."""
    bits = intervals.bits_per_byte(found)
    before = intervals.bits_per_byte(base)
    if not all(math.isfinite(bits[name]) for name in found):
        raise ValueError(f"a merge gives bits per byte of {bits}")
    return {"bits_per_byte": bits, "gain": {name: before[name] - bits[name] for name in (*found, "mean")}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
