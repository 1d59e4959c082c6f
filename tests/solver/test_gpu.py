"""The solver on a CUDA device, against the CPU. Run with: pytest -m gpu."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.problems import load_problem
from tokensurgeon.solver.omp import solve_omp

pytestmark = pytest.mark.gpu
TARGETS, ATOMS = load_problem({"targets": 300, "atoms": 20_000, "dim": 200}, 0)


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_supports_as_on_the_cpu(exact):
    cpu, cuda = (solve_omp(TARGETS, ATOMS, 32, exact=exact, device=device) for device in ("cpu", "cuda"))
    same = (cpu.indices.sort(dim=1).values == cuda.indices.sort(dim=1).values).all(dim=1).float().mean()
    assert same >= 0.99 and cuda.values.device.type == "cpu"
    torch.testing.assert_close(cpu.residual.mean(), cuda.residual.mean(), rtol=1e-3, atol=0)


def test_the_memory_budget_is_kept():
    targets, atoms = TARGETS.cuda(), ATOMS.cuda()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    solve_omp(targets, atoms, 32, memory=200 * 2**20)
    assert torch.cuda.max_memory_allocated() - before < 200 * 2**20 * 1.1
