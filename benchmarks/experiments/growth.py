"""How the solver's time and memory grow with targets, atoms, dimensions, sparsity, and its memory budget.

    python -m benchmarks.experiments.growth benchmarks/experiments/growth.toml

Every point runs in a process of its own, on synthetic rows, so that its peak memory is its own: the
operating system's peak (Linux) minus what was resident before the call.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file; write the result and a plot."""
    from benchmarks.common.provenance import provenance

    experiment = tomllib.loads(path.read_text())
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "axes": {}}
    for axis, values in experiment["axes"].items():
        points = []
        for value in values:
            point = experiment["centre"] | {axis: value}
            runs = [measure(point) for _ in range(experiment["repeats"])]
            points.append(
                {
                    "value": value,
                    "seconds": [run["seconds"] for run in runs],
                    "median_seconds": statistics.median(run["seconds"] for run in runs),
                    "median_extra_mib": statistics.median(run["extra_mib"] for run in runs),
                }
            )
            print(axis, points[-1], flush=True)
        result["axes"][axis] = {"points": points}
        if axis != "memory_mib":
            for name in ("seconds", "extra_mib"):
                result["axes"][axis][f"{name}_exponent"] = _exponent(points, f"median_{name}")
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(result, results / f"{path.stem}.png")


def measure(point: dict[str, int]) -> dict[str, float]:
    """One solve in a child process: seconds, and MiB beyond what was there before."""
    command = [sys.executable, "-m", "benchmarks.experiments.growth", "--point", json.dumps(point)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def _point(point: dict[str, int]) -> dict[str, float]:
    from benchmarks.common.problems import load_problem
    from tokensurgeon.solver.omp import solve_omp

    targets, atoms = load_problem(point, 0)
    solve_omp(targets[:16], atoms[: 17 * 32], 4, memory=2**30)
    Path("/proc/self/clear_refs").write_text("5")  # lets the peak begin anew
    before = _resident("VmRSS")
    memory = point["memory_mib"] * 2**20 if point["memory_mib"] else None
    started = time.perf_counter()
    solve_omp(targets, atoms, point["k"], memory=memory)
    took = time.perf_counter() - started
    return {"seconds": round(took, 3), "extra_mib": round((_resident("VmHWM") - before) / 1024, 1)}


def _resident(name: str) -> int:
    """KiB, now (VmRSS) or at most so far (VmHWM). Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _exponent(points: list[dict[str, Any]], name: str) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = ([math.log(max(p[key], 1e-9)) for p in points] for key in ("value", name))
    return statistics.linear_regression(x, y).slope


def plot(result: dict[str, Any], path: Path) -> None:
    """Time above, memory below, one column per axis, both scales logarithmic. A budget has no exponent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    axes = result["axes"]
    figure = Figure(figsize=(3.2 * len(axes), 5.2), layout="constrained")
    panels = figure.subplots(2, len(axes), sharey="row")
    for column, (name, axis) in enumerate(axes.items()):
        for row, (key, label) in enumerate((("seconds", "seconds"), ("extra_mib", "MiB of work space"))):
            panel = panels[row][column]
            panel.loglog(
                [p["value"] for p in axis["points"]], [p[f"median_{key}"] for p in axis["points"]], "o-", color="C0"
            )
            exponent = axis.get(f"{key}_exponent")
            panel.set_title("" if exponent is None else f"exponent {exponent:.2f}", fontsize=9)
            panel.set_xlabel("budget in MiB" if name == "memory_mib" else name)
            values = [p["value"] for p in axis["points"]]
            panel.set_xticks(values, [f"{v:,}" for v in values], rotation=45, fontsize=7)
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.grid(True, which="both", alpha=0.3)
            if column == 0:
                panel.set_ylabel(label)
    centre = ", ".join(f"{n} {v:,}" for n, v in result["settings"]["centre"].items() if v)
    figure.suptitle(f"solve_omp around {centre}; {result['hardware']['cores']} cores", fontsize=10)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if sys.argv[1] == "--point":
        print(json.dumps(_point(json.loads(sys.argv[2]))))
    else:
        main(Path(sys.argv[1]))
