"""Time the peer's solver. Runs under the peers' own Python, which has mergekit and not tokensurgeon.

python benchmarks/peers/omp.py PROBLEM.safetensors OUT.safetensors K BATCH DEVICE
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import torch
from mergekit.tokensurgeon.omp import batch_omp
from safetensors.torch import load_file, save_file


def main(problem: str, out: str, k: int, batch: int, device: str) -> None:
    """Solve and report seconds, as one JSON object on stdout."""
    tensors = {name: tensor.to(device) for name, tensor in load_file(problem).items()}
    targets, atoms = tensors["targets"], tensors["atoms"]
    batch_omp(targets[:4], atoms, 1)
    _wait(device)
    started = time.perf_counter()
    parts = [batch_omp(targets[i : i + batch], atoms, k) for i in range(0, len(targets), batch)]
    _wait(device)
    seconds = time.perf_counter() - started
    indices, values = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    save_file({"indices": indices.contiguous(), "values": values.float().contiguous()}, out)
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    print(json.dumps({"seconds": seconds, "cuda_peak_bytes": peak, **_versions()}))


def _versions() -> dict[str, object]:
    return {"mergekit": version("mergekit"), "torch": torch.__version__, "threads": torch.get_num_threads()}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
