"""Whole transplant commands beside each other: the same models, the same text, one run.

    python -m benchmarks.compare benchmarks/experiments/compare_mergekit.toml
    python -m benchmarks.compare benchmarks/experiments/full_job.toml

The commands run in turn. Wall time and peak memory are the operating system's own; the
outputs are scored by the same code. A peer lives in an environment of its own (`make bench-compare`).
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

from benchmarks import models, texts
from benchmarks.provenance import provenance
from tokensurgeon.evaluation.model import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.manifest import Manifest

RESULTS = Path(__file__).parent / "results"
_LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
counted = "/proc/self/io"
io = dict(line.split(": ") for line in open(counted)) if os.path.exists(counted) else {}
print(json.dumps({
    "wall_s": round(time.perf_counter() - started, 1),
    "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
    "peak_mib": round(usage.ru_maxrss / 1024),
    "read_mib": round(usage.ru_inblock / 2048),
    "written_mib": round(usage.ru_oublock / 2048),
    "asked_mib": round(int(io.get("rchar", 0)) / 2**20),
}))
sys.exit(1 if status else 0)
"""


def main(path: Path) -> None:
    """Run the experiment file and write its result."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    texts.required_directory()
    experiment = tomllib.loads(path.read_text())
    base, donor = getattr(models, experiment["base"])(), getattr(models, experiment["donor"])()
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "sides": {}}
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-compare-") as work:
        places = {side: Path(work) / side for side in experiment["commands"]}
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in places}
        for _ in range(experiment["repeats"]):
            for side, command in experiment["commands"].items():
                shutil.rmtree(places[side], ignore_errors=True)
                runs[side].append(timed([part.format(base=base, donor=donor, out=places[side]) for part in command]))
                print(side, runs[side][-1], flush=True)
        for side, out in {"untouched base": base, **places}.items():
            result["sides"][side] = {"scores": {str(n): _score(out, n) for n in experiment["bytes"]}}
            print(side, {n: round(s["mean"], 4) for n, s in result["sides"][side]["scores"].items()}, flush=True)
            if side in runs:
                walls, peaks = [r["wall_s"] for r in runs[side]], [r["peak_mib"] for r in runs[side]]
                result["sides"][side] |= {
                    "runs": runs[side],
                    "median_wall_s": statistics.median(walls),
                    "median_peak_mib": statistics.median(peaks),
                }
        ours = Manifest.read(places["tokensurgeon"])
        result["inputs"] = {side: ours.content[side] for side in ("base", "donor")} if ours else None
        result["anchors"] = ours.content["anchors"] if ours else None
        result["counts"] = ours.content["counts"] if ours else None
    result["loss"] = _losses(result["sides"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["loss"], indent=2))


def timed(command: list[str]) -> dict[str, float]:
    """Wall time, processor time, peak memory, and what was read from and written to the disk by a command.

    ``read_mib`` are blocks that came from the disk, which a hole in a file has none of; ``asked_mib`` is what it asked
    for with read and copy calls, without what it mapped.

    A small process of its own starts the command: Linux counts what the starting process holds towards the peak.
    """
    run = subprocess.run([sys.executable, "-I", "-S", "-c", _LAUNCH, *command], capture_output=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{command[0]} failed: {run.stderr.decode()[-2000:]}")
    found: dict[str, float] = json.loads(run.stdout)
    return found


def _score(directory: Path, n_bytes: int) -> dict[str, Any]:
    loaded = load_model(directory)
    scores = {
        name: score_text(loaded.model, loaded.encode, loaded.prefix, pieces).bits_per_byte
        for name, pieces in texts.corpora(n_bytes).items()
    }
    return {"mean": statistics.fmean(scores.values()), **scores}


def _losses(sides: dict[str, Any]) -> dict[str, Any]:
    """Loss in bits per byte against the untouched base, and ours relative to the peer's, if it ran."""
    losses: dict[str, Any] = {}
    for size, base in sides["untouched base"]["scores"].items():
        of = {side: s["scores"][size]["mean"] - base["mean"] for side, s in sides.items() if side != "untouched base"}
        peer = of.get("mergekit-tokensurgeon")
        smaller = {side: 1 - loss / peer for side, loss in of.items() if loss != peer} if peer else {}
        losses[size] = {**of, "smaller_by": smaller}
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1]))
