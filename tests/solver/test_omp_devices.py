"""The solver on a device that is not the CPU, with the CPU's results."""

from __future__ import annotations

import pytest
import torch

import tokensurgeon.solver.omp as omp
from tests.elsewhere import ELSEWHERE, Elsewhere
from tokensurgeon import solve_omp


def problem(n: int = 60, m: int = 700, dim: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms so alike that bfloat16 cannot tell them apart and that they cancel; a target is zeros, one is an atom."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(dim, generator=generator)
    atoms, targets = (centre + 0.02 * torch.randn(rows, dim, generator=generator) for rows in (m, n))
    targets[0], targets[1] = 0.0, atoms[7]
    return targets, atoms


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices like this one scan in bfloat16."""
    monkeypatch.setattr(omp, "precision_for", lambda *_: torch.bfloat16)
    monkeypatch.setattr(omp, "_proves", lambda *_: False)  # as elsewhere: atoms this alike are told apart by rounding


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("room", [0, 64])
def test_coefficients_are_those_of_the_cpu(monkeypatch, exact, room):
    """Also where a step has room to settle none of its picks, or all, but not to orthogonalise all atoms twice."""
    monkeypatch.setattr(omp, "_SETTLED", room)
    expected = solve_omp(*problem(), 24, exact=exact)
    with Elsewhere():
        targets, atoms = (rows.to(ELSEWHERE) for rows in problem())
        found = solve_omp(targets, atoms, 24, exact=exact)
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.n_active, expected.n_active)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-3, atol=1e-4)
    assert found.values.device.type == "cpu"


def test_no_step_waits_for_the_device():
    """However many atoms are picked: what is waited for is checked before, and fetched afterwards."""
    waits = []
    for k in (4, 24):
        with Elsewhere() as elsewhere:
            solve_omp(torch.randn(60, 48).to(ELSEWHERE), torch.randn(700, 48).to(ELSEWHERE), k)
        waits.append(elsewhere.waits)
    assert waits[0] == waits[1] and waits[0]["nonzero"] and waits[0]["_local_scalar_dense"]


def test_targets_may_lie_elsewhere_than_they_are_solved():
    targets, atoms = problem()
    with Elsewhere():
        found = solve_omp(targets, atoms.to(ELSEWHERE), 4, device=ELSEWHERE)
        back = solve_omp(targets.to(ELSEWHERE), atoms, 4, device="cpu")
    expected = solve_omp(targets, atoms, 4)
    assert torch.equal(found.indices, expected.indices) and torch.equal(back.indices, expected.indices)


def test_mixed_devices_are_an_error():
    """Or nothing here would be shown."""
    with Elsewhere(), pytest.raises(RuntimeError, match="different devices"):
        torch.ones(3).to(ELSEWHERE) + torch.ones(3)
