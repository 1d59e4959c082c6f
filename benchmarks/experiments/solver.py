"""The solver beside mergekit's and scikit-learn's, on the same targets and atoms, in one run.

    python -m benchmarks.experiments.solver benchmarks/experiments/solver.toml
    python -m benchmarks.experiments.solver benchmarks/experiments/solver_gpu.toml   # where there is a CUDA device

Sides take turns, and medians are reported. mergekit's function runs under the peers' own Python
(`make bench-solver` installs it), where only the call is timed. "Effective" work is what a full scan per
pick would do, 2·k·m·d flops per target, and is compared with what this machine's float32 matrix product
reaches on one scan's shapes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import orthogonal_mp

from benchmarks.common.problems import load_problem
from benchmarks.common.provenance import provenance
from tokensurgeon.solver.omp import SparseCoefficients, solve_omp
from tokensurgeon.solver.scan import Dictionary, Shortlist, full_precision, precision_for
from tokensurgeon.transfer.combine import transfer

RESULTS = Path(__file__).parents[1] / "results"


def main(path: Path, results: Path = RESULTS) -> None:
    """Run the experiment file and write its result."""
    experiment = tomllib.loads(path.read_text())
    device = torch.device(experiment["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("this experiment needs a CUDA device")
    result: dict[str, Any] = provenance(path.stem) | {"settings": experiment, "problems": {}}
    result["precision"] = {m: str(precision_for(device, m == "exact")).split(".")[1] for m in ("default", "exact")}
    for problem in experiment["problems"]:
        targets, atoms = load_problem(problem, experiment["targets"])
        entry: dict[str, Any] = {"targets": len(targets), "atoms": len(atoms), "dim": atoms.shape[1], "k": {}}
        entry["float32_gemm_gflops"] = _gemm_gflops(targets, atoms, device)
        result["problems"][problem["name"]] = entry
        for k in problem.get("k", experiment["k"]):
            entry["k"][str(k)] = _measure(targets, atoms, k, experiment, device, entry["float32_gemm_gflops"])
            print(problem["name"], k, json.dumps(entry["k"][str(k)]), flush=True)
    results.mkdir(exist_ok=True)
    (results / f"{path.stem}.json").write_text(json.dumps(result, indent=2) + "\n")


def _measure(
    targets: torch.Tensor, atoms: torch.Tensor, k: int, experiment: dict[str, Any], device: torch.device, peak: float
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {}
    solutions: dict[str, torch.Tensor] = {}
    residuals: dict[str, float] = {}
    memory: dict[str, int | None] = {}
    on_device = targets.to(device), atoms.to(device)
    for _ in range(experiment["repeats"]):
        for mode in ("default", "exact"):
            solve_omp(on_device[0][:4], on_device[1], 1, exact=mode == "exact")
            took, solution, memory[mode] = _own(*on_device, k, mode == "exact")
            seconds.setdefault(mode, []).append(took)
            solutions[mode], residuals[mode] = solution.indices, float(solution.residual.mean())
        if experiment.get("peer_python"):
            report, solutions["mergekit"], residuals["mergekit"] = _peer(targets, atoms, k, experiment)
            seconds.setdefault("mergekit", []).append(report["seconds"])
            memory["mergekit"] = report["cuda_peak_bytes"]
            experiment["peer"] = {name: report[name] for name in ("mergekit", "torch", "threads")}
    row: dict[str, Any] = {
        side: {
            "seconds": [round(s, 3) for s in taken],
            "median_ms_per_target": 1e3 * statistics.median(taken) / len(targets),
        }
        for side, taken in seconds.items()
    }
    for side, peak_bytes in memory.items():
        if peak_bytes is not None:
            row[side]["cuda_peak_gib"] = peak_bytes / 2**30
    if experiment["sklearn_targets"]:
        row["scikit-learn"] = _sklearn(targets[: experiment["sklearn_targets"]], atoms, k, solutions)
    for side, of in row.items():
        of["effective_gflops"] = 2 * k * atoms.numel() / of["median_ms_per_target"] / 1e6
        of["of_float32_gemm"] = of["effective_gflops"] / peak
        if "mergekit" in row:
            of["times_faster_than_mergekit"] = row["mergekit"]["median_ms_per_target"] / of["median_ms_per_target"]
        if side in solutions:
            of["supports_as_exact"] = _same(solutions[side], solutions["exact"])
            of["mean_residual_over_exact"] = residuals[side] / residuals["exact"]
    for mode in ("default", "exact"):
        row[mode]["settled_in_float32"] = _settled_in_float32(*on_device, k, mode == "exact")
    if device.type == "cpu":
        row["default"]["parts_ms_per_target"] = _parts(targets, atoms, k, experiment["repeats"])
    return row


def _parts(targets: torch.Tensor, atoms: torch.Tensor, k: int, repeats: int) -> dict[str, float]:
    """Milliseconds a target of k scans, and of the products in them: what a scan for every pick cannot go below."""
    unit = torch.nn.functional.normalize(targets, dim=1)
    with full_precision():
        dictionary = Dictionary.of(atoms, len(targets), precision_for(targets.device, False), False)
        residual = dictionary.turned(unit)
        left, query = residual.norm(dim=1), dictionary._round(residual, residual.norm(dim=1))[0]
        room = torch.empty(len(query), dictionary.tiles[0].shape[1], dtype=dictionary.scores.dtype)
        multiply = torch._int_mm if query.dtype is torch.int8 else torch.mm

        def products() -> None:
            for tile in dictionary.tiles:
                multiply(query, tile, out=room)

        found = {"scans": lambda: dictionary.shortlist(residual, left), "products": products}
        return {name: 1e3 * k * _median(one, repeats) / len(targets) for name, one in found.items()}


def _median(work: Callable[[], object], repeats: int) -> float:
    """Seconds, after one call that is not timed."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _own(
    targets: torch.Tensor, atoms: torch.Tensor, k: int, exact: bool
) -> tuple[float, SparseCoefficients, int | None]:
    cuda = targets.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    solution = solve_omp(targets, atoms, k, exact=exact)  # its result is on the CPU: nothing is left to wait for
    took = time.perf_counter() - started
    return took, solution, torch.cuda.max_memory_allocated() if cuda else None


def _settled_in_float32(targets: torch.Tensor, atoms: torch.Tensor, k: int, exact: bool) -> float:
    """Share of picks that low precision could not settle. Not timed."""
    counted = [0]
    settled = Dictionary.settled

    def counting(
        self: Dictionary, found: Shortlist, residual: torch.Tensor, rows: torch.Tensor, reached: torch.Tensor
    ) -> torch.Tensor:
        counted[0] += len(rows)
        return settled(self, found, residual, rows, reached)

    Dictionary.settled = counting  # type: ignore[method-assign]
    try:
        solve_omp(targets, atoms, k, exact=exact)
    finally:
        Dictionary.settled = settled  # type: ignore[method-assign]
    return counted[0] / (k * len(targets))


def _peer(
    targets: torch.Tensor, atoms: torch.Tensor, k: int, experiment: dict[str, Any]
) -> tuple[dict[str, Any], torch.Tensor, float]:
    """Its report, its supports and its mean residual. It picks by raw products, so it is given unit atoms."""
    unit = torch.nn.functional.normalize(atoms, dim=1)
    if experiment["device"] == "cuda":
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory(prefix="tokensurgeon-solver-") as work:
        problem, out = Path(work) / "problem.safetensors", Path(work) / "out.safetensors"
        save_file({"targets": targets.contiguous(), "atoms": unit}, problem)
        script = str(Path(__file__).parents[1] / "peers/omp.py")
        options = [str(k), str(experiment["peer_batch"]), experiment["device"]]
        command = [experiment["peer_python"], script, str(problem), str(out), *options]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        found = load_file(out)
    solution = SparseCoefficients(found["indices"], found["values"], torch.empty(0), torch.empty(0))
    residual = (targets - transfer(solution, unit)).norm(dim=1).mean()
    return json.loads(answer), found["indices"], float(residual)


def _sklearn(targets: torch.Tensor, atoms: torch.Tensor, k: int, solutions: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A sample, in float64, once; it copies the atoms for every target. The others' supports are compared with it."""
    unit = (atoms / atoms.norm(dim=1, keepdim=True)).double().numpy().T
    started = time.perf_counter()
    coefficients = orthogonal_mp(unit, targets.double().numpy().T, n_nonzero_coefs=k).T
    took = time.perf_counter() - started
    support = torch.stack([torch.from_numpy(row.nonzero()[0]) for row in coefficients])
    return {
        "targets": len(targets),
        "seconds": [round(took, 3)],
        "median_ms_per_target": 1e3 * took / len(targets),
        "same_supports": {side: _same(found[: len(targets)], support) for side, found in solutions.items()},
    }


def _same(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of rows that hold the same atoms, in any order."""
    return float((a.sort(dim=1).values == b.sort(dim=1).values).all(dim=1).float().mean())


def _gemm_gflops(targets: torch.Tensor, atoms: torch.Tensor, device: torch.device) -> float:
    """What a float32 matrix product of one scan's shapes reaches here (median of 5)."""
    left, right = targets[:512].to(device), atoms.to(device)
    out = torch.empty(len(left), len(right), device=device)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(left, right.T, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return 2 * len(left) * right.numel() / statistics.median(taken[1:]) / 1e9


if __name__ == "__main__":
    main(Path(sys.argv[1]))
