"""The solver against scikit-learn and against the definition."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

import tokensurgeon.solver.omp as omp
import tokensurgeon.solver.scan as scan_module
from tokensurgeon import InputError, solve_omp
from tokensurgeon.transfer.combine import transfer

MODES = [
    (torch.int8, False), (torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True), (torch.float32, True),
]  # fmt: skip


def problem(n=40, m=700, d=48, seed=0, spread=True):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(m, d, generator=generator)
    if spread:  # embeddings have rows of very different norm, and a common direction
        atoms = (atoms + torch.randn(d, generator=generator)) * torch.rand(m, 1, generator=generator).add(0.1)
    return torch.randn(n, d, generator=generator), atoms


@cache
def expected_of(m, k):
    """Scikit-learn's answer, once for all modes."""
    return reference(*problem(m=m), k)


def reference(targets, atoms, k):
    norms = atoms.double().norm(dim=1, keepdim=True)
    unit = (atoms.double() / norms).numpy()
    coefficients = orthogonal_mp(unit.T, targets.double().numpy().T, n_nonzero_coefs=k)
    return coefficients.reshape(len(atoms), -1).T / norms.numpy().T


def dense(solution, m):
    full = torch.zeros(len(solution.indices), m, dtype=torch.float64)
    return full.scatter_add_(1, solution.indices, solution.values.double()).numpy()


@pytest.mark.parametrize("k", [1, 2, 8, 24])
@pytest.mark.parametrize("m", [300, 700, 9000])
@pytest.mark.parametrize(("scan", "exact"), MODES)
def test_agrees_with_scikit_learn(monkeypatch, m, k, scan, exact):
    monkeypatch.setattr(omp, "precision_for", lambda *_: scan)
    targets, atoms = problem(m=m)
    solution = solve_omp(targets, atoms, k, exact=exact)
    expected = expected_of(m, k)
    for row, indices in zip(expected, solution.indices, strict=True):
        assert set(np.flatnonzero(row)) == set(indices.tolist())
    np.testing.assert_allclose(dense(solution, len(atoms)), expected, rtol=1e-3, atol=1e-4)
    error = np.linalg.norm(targets.numpy() - expected @ atoms.double().numpy(), axis=1)
    np.testing.assert_allclose(solution.residual, error, rtol=1e-4)
    assert (solution.n_active == k).all()


def cosines(targets: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    """(n_targets, n_atoms) float64."""
    unit = [rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (targets, atoms)]
    return unit[0] @ unit[1].T


def test_scans_are_certified(monkeypatch):
    """Atoms so alike that low precision cannot tell them apart: the float32 winner must still be picked."""
    generator = torch.Generator().manual_seed(3)
    centre = torch.randn(64, generator=generator)
    atoms = centre + 1e-3 * torch.randn(900, 64, generator=generator)
    targets = centre + 1e-3 * torch.randn(30, 64, generator=generator)
    solutions = []
    for scan, exact in MODES:
        monkeypatch.setattr(omp, "precision_for", lambda *_, scan=scan: scan)
        solutions.append(solve_omp(targets, atoms, 1, exact=exact))
    correlation = cosines(targets, atoms)
    for (_, exact), solution in zip(MODES, solutions, strict=True):
        picked = correlation.gather(1, solution.indices)[:, 0]
        # Turning all vectors is a rounding of its own, of float32's size.
        torch.testing.assert_close(picked, correlation.amax(dim=1), rtol=0, atol=5e-7 if exact else 1e-6)


def test_rounding_that_misleads_the_scan_is_noticed(monkeypatch):
    """Sixteen atoms that bfloat16 rounds up past the winner, which it rounds down: only float32 sees it."""
    step = 2.0**-8
    winner = torch.zeros(300)
    winner[:254] = 0.0625 * (1 + 0.98 * step)
    rivals = torch.zeros(16, 300)
    rivals[:, :254] = 0.0625 * (1 + 1.003 * step)
    rivals[torch.arange(16), 260 + torch.arange(16)] = 0.12
    atoms = torch.cat([winner[None], rivals, torch.eye(300)[280:]])
    norms = atoms.norm(dim=1, keepdim=True)
    for scan, exact in MODES:
        monkeypatch.setattr(omp, "precision_for", lambda *_, scan=scan: scan)
        assert solve_omp(winner[None], atoms / norms, 1, exact=exact).indices.tolist() == [[0]]


def test_a_target_that_is_an_atom_needs_one():
    _, atoms = problem()
    solution = solve_omp(atoms[[5]] * 3, atoms, 8)
    assert solution.n_active.tolist() == [1]
    assert solution.indices[0, 0] == 5
    assert solution.values[0].tolist() == pytest.approx([3.0] + [0.0] * 7, abs=1e-5)
    assert solution.residual[0] < 1e-4


def test_zero_targets_get_nothing():
    targets, atoms = problem()
    targets[3] = 0
    solution = solve_omp(targets, atoms, 4)
    assert solution.n_active[3] == 0 and solution.residual[3] == 0
    assert (solution.values[3] == 0).all() and (solution.n_active[[0, 1, 2, 4]] == 4).all()


def test_zero_atoms_are_never_picked():
    targets, atoms = problem()
    atoms[::2] = 0
    assert (solve_omp(targets, atoms, 8).indices % 2 == 1).all()


def test_duplicate_atoms_are_picked_once_and_the_lowest_index_wins():
    targets, atoms = problem(m=100)
    doubled = torch.cat([atoms, atoms, atoms])
    one, three = solve_omp(targets, atoms, 6), solve_omp(targets, doubled, 6)
    assert torch.equal(one.indices, three.indices)
    torch.testing.assert_close(one.values, three.values, rtol=1e-4, atol=1e-5)


def test_dependent_atoms_stop_when_nothing_is_left():
    """All atoms in a plane, the target outside: two atoms, then no atom can help."""
    generator = torch.Generator().manual_seed(1)
    atoms = torch.randn(50, 2, generator=generator) @ torch.randn(2, 16, generator=generator)
    target = torch.randn(1, 16, generator=generator)
    solution = solve_omp(target, atoms, 10)
    assert solution.n_active.tolist() == [2]
    best = np.linalg.lstsq(atoms.double().numpy().T, target[0].double().numpy(), rcond=1e-6)[0]
    expected = np.linalg.norm(target[0].double().numpy() - best @ atoms.double().numpy())
    assert solution.residual[0].item() == pytest.approx(expected, rel=1e-4)


def test_nearly_dependent_atoms_keep_the_fit():
    generator = torch.Generator().manual_seed(2)
    atoms = torch.randn(1, 32, generator=generator) + 1e-3 * torch.randn(200, 32, generator=generator)
    target = torch.randn(1, 32, generator=generator)
    solution = solve_omp(target, atoms, 16)
    chosen = atoms[solution.indices[0]].double().numpy()
    best = np.linalg.lstsq(chosen.T, target[0].double().numpy(), rcond=None)[0]
    expected = np.linalg.norm(target[0].double().numpy() - best @ chosen)
    assert solution.residual[0].item() <= expected * 1.01 + 1e-4


def test_tolerance_stops_early():
    targets, atoms = problem()
    loose, tight = solve_omp(targets, atoms, 30, tol=0.5), solve_omp(targets, atoms, 30)
    assert (loose.residual <= 0.5 * targets.norm(dim=1)).all()
    assert (loose.n_active < tight.n_active).all()


def test_more_atoms_never_fit_worse():
    targets, atoms = problem()
    errors = [solve_omp(targets, atoms, k).residual for k in (1, 4, 16, 40)]
    assert all((b <= a + 1e-5).all() for a, b in pairwise(errors))


def test_k_up_to_all_atoms_and_beyond():
    targets, atoms = problem(n=3, m=20, d=48)
    assert solve_omp(targets, atoms, 20).n_active.tolist() == [20] * 3
    with pytest.raises(InputError, match="k=21 must be from 1 to the number of anchors, 20"):
        solve_omp(targets, atoms, 21)


@pytest.mark.parametrize(("scan", "exact"), MODES)
@pytest.mark.parametrize(("rows", "m", "d"), [(1, 5000, 48), (7, 3000, 51), (39, 3000, 576), (40, 9000, 50)])
def test_batches_and_threads_do_not_matter(monkeypatch, rows, m, d, scan, exact):
    """Bit for bit: what sharding over processes rests on. Some atoms are so alike that float32 must settle."""
    monkeypatch.setattr(omp, "precision_for", lambda *_: scan)
    targets, atoms = problem(m=m, d=d)
    atoms[m // 2 :] = atoms[: m - m // 2] * (1 + 1e-6 * torch.arange(d))
    whole = solve_omp(targets, atoms, 8, exact=exact)
    monkeypatch.setattr(omp, "_rows", lambda *_: rows)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        parts = solve_omp(targets, atoms, 8, exact=exact)
    finally:
        torch.set_num_threads(threads)
    for name in ("indices", "values", "n_active", "residual"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


def test_memory_decides_how_many_are_solved_together():
    targets, atoms = problem(n=600)
    seen = []
    for memory in (2 * 2**20, 6 * 2**20, None):
        done = []
        solve_omp(targets, atoms, 8, memory=memory, progress=lambda d, _, done=done: done.append(d))
        seen.append(done[8])  # the first batch has made its eight picks
    assert seen[0] < seen[1] < seen[2] == 600


def test_too_little_memory_is_refused_with_what_is_needed():
    targets, atoms = problem()
    with pytest.raises(InputError, match=r"0 MiB of memory is too little .* Give --memory (\d+)MiB or more") as caught:
        solve_omp(targets, atoms, 8, memory=1000)
    needed = int(str(caught.value).split("--memory ")[1].split("MiB")[0])
    assert solve_omp(targets, atoms, 8, memory=needed * 2**20).n_active.min() == 8
    with pytest.raises(InputError, match="too little"):
        solve_omp(targets, atoms, 8, memory=(needed - 1) * 2**20)


def test_the_mode_decides_the_precision(monkeypatch):
    """int8 is never used where every pick shall be proved."""
    monkeypatch.setattr(scan_module, "cpu_has", lambda feature: feature in ("avx512_vnni", "avx512_bf16"))
    cpu = torch.device("cpu")
    assert scan_module.precision_for(cpu, certain=False) is torch.int8
    assert scan_module.precision_for(cpu, certain=True) is torch.bfloat16
    monkeypatch.setattr(scan_module, "cpu_has", lambda feature: feature in ("avx512_vnni", "avx512_bf16", "amx_bf16"))
    assert {scan_module.precision_for(cpu, exact) for exact in (False, True)} == {torch.bfloat16}
    monkeypatch.setattr(scan_module, "cpu_has", lambda _: False)
    assert {scan_module.precision_for(cpu, exact) for exact in (False, True)} == {torch.float32}
    monkeypatch.undo()
    used = []
    original = scan_module.Dictionary.of
    monkeypatch.setattr(
        omp.Dictionary,
        "of",
        lambda atoms, rows, precision, certain: (
            used.append((precision, certain)) or original(atoms, rows, precision, certain)
        ),
    )
    targets, atoms = problem()
    solve_omp(targets, atoms, 2), solve_omp(targets, atoms, 2, exact=True)
    kinds = [scan_module.precision_for(cpu, exact) for exact in (False, True)]
    assert used == [(kinds[0], kinds[0] is not torch.int8), (kinds[1], True)]


@pytest.mark.parametrize(("scan", "exact"), MODES)
@pytest.mark.parametrize(("d", "m", "n"), [(96, 5000, 200), (2048, 1500, 30)])
def test_the_bound_holds_for_every_atom_left_out(scan, exact, d, m, n):
    """A strong mean and one coordinate with most of the norm, in atoms and in half of the residuals."""
    generator = torch.Generator().manual_seed(5)
    atoms = torch.randn(m, d, generator=generator) + 3 * torch.randn(d, generator=generator)
    atoms[:, 7] *= 3 * d**0.5
    residual = torch.randn(n, d, generator=generator)
    residual[::2, 7] *= 3 * d**0.5
    residual *= torch.logspace(-4, 0, n)[:, None]
    dictionary = scan_module.Dictionary.of(atoms, n, scan, exact)
    residual = dictionary.turned(residual)
    left = residual.norm(dim=1)
    found = dictionary.shortlist(residual, left)
    shortlist, bound = found.atoms, found.bound
    scores = (residual.double() @ dictionary.unit.double().T).abs()
    best = scores.amax(dim=1)
    scores.scatter_(1, shortlist, 0.0)
    assert (scores.amax(dim=1) <= bound.double()).all()
    assert (bound.double() < best + 0.05 * left).all()  # and is worth something
    assert len(shortlist[0].unique()) == scan_module.SHORTLIST


@pytest.mark.parametrize(("scan", "exact"), MODES)
def test_residuals_that_no_atom_correlates_with_are_settled_among_atoms(scan, exact):
    """Not by the zeros that fill up a tile."""
    dictionary = scan_module.Dictionary.of(torch.eye(64)[:50], 3, scan, exact)
    residual = dictionary.turned(torch.eye(64)[60:63])
    found = dictionary.shortlist(residual, residual.norm(dim=1))
    index = dictionary.settled(found, residual, torch.arange(3), torch.zeros(3))
    assert index.max() < 50


@pytest.mark.parametrize(("scan", "exact"), MODES)
@pytest.mark.parametrize("rivals", [3000, 0])
def test_what_is_settled_is_what_a_float32_scan_finds(monkeypatch, scan, exact, rivals):
    """Atoms in bunches of a hundred, more than a shortlist holds; rivals are looked at one by one, or are too many."""
    generator = torch.Generator().manual_seed(6)
    centres = torch.randn(30, 1, 64, generator=generator)
    atoms = (centres + 1e-4 * torch.randn(30, 100, 64, generator=generator)).flatten(0, 1)
    atoms = atoms[torch.randperm(3000, generator=generator)]
    residual = torch.randn(50, 64, generator=generator)
    dictionary = scan_module.Dictionary.of(atoms, 50, scan, exact)
    residual = dictionary.turned(residual)
    found = dictionary.shortlist(residual, residual.norm(dim=1))
    scores = (residual.double() @ dictionary.unit.double().T).abs()
    reached = scores.gather(1, found.atoms).amax(dim=1).float()
    rows = torch.arange(1, 50, 2)
    full, scanned = scan_module.Dictionary.full, []
    monkeypatch.setattr(scan_module.Dictionary, "full", lambda own, some: scanned.append(len(some)) or full(own, some))
    monkeypatch.setattr(scan_module, "_RIVALS", rivals)
    index = dictionary.settled(found, residual, rows, reached[rows])
    best = scores[rows].amax(dim=1)
    assert (scores[rows].gather(1, index[:, None])[:, 0] >= best * (1 - 1e-6)).all()
    assert (reached[rows] < best * (1 - 1e-6)).any() or scan is torch.float32  # the shortlist alone was wrong
    assert sum(scanned) == (0 if rivals else len(rows))


def test_reduced_precision_elsewhere_in_the_program_is_not_ours():
    """With "medium", oneDNN would make our float32 products in bfloat16 where the processor has it."""
    targets, atoms = problem(m=3000)
    expected = solve_omp(targets, atoms, 12)
    torch.set_float32_matmul_precision("medium")
    try:
        found = solve_omp(targets, atoms, 12)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.indices, expected.indices) and torch.equal(found.values, expected.values)


@pytest.mark.parametrize(("scan", "exact"), MODES)
def test_of_many_equal_atoms_the_lowest_index_wins(monkeypatch, scan, exact):
    """More copies of the best atom than a shortlist holds."""
    monkeypatch.setattr(omp, "precision_for", lambda *_: scan)
    targets, atoms = problem(m=200)
    many = torch.cat([atoms] * 40)
    one, copies = (solve_omp(targets, rows, 5, exact=exact) for rows in (atoms, many))
    assert torch.equal(one.indices, copies.indices)


def test_weights_that_are_being_trained():
    """A model's embedding as it comes, with its gradient switched on."""
    targets, atoms = problem()
    solution = solve_omp(targets, torch.nn.Parameter(atoms), 4)
    assert torch.equal(solution.indices, solve_omp(targets, atoms, 4).indices) and not solution.values.requires_grad


def test_few_atoms_and_no_targets():
    targets, atoms = problem(m=3)
    assert solve_omp(targets, atoms, 2).indices.max() < 3
    empty = solve_omp(targets[:0], atoms, 2)
    assert empty.indices.shape == (0, 2) and empty.residual.shape == (0,)


def test_half_precision_input_is_solved_in_float32():
    targets, atoms = problem()
    solution = solve_omp(targets.bfloat16(), atoms.bfloat16(), 8)
    again = solve_omp(targets.bfloat16().float(), atoms.bfloat16().float(), 8)
    assert solution.values.dtype == torch.float32 and torch.equal(solution.indices, again.indices)


def test_progress_reaches_the_end(monkeypatch):
    targets, atoms = problem()
    seen = []
    monkeypatch.setattr(omp, "_rows", lambda *_: 16)
    solve_omp(targets, atoms, 2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 40), (8, 40), (16, 40), (24, 40), (32, 40), (36, 40), (40, 40)]


@pytest.mark.parametrize("which", ["target", "atom"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_named(which, value):
    targets, atoms = problem()
    (targets if which == "target" else atoms)[7, 3] = value
    with pytest.raises(InputError, match=rf"1 {which} rows hold NaN or infinity \(first: at position 7\)"):
        solve_omp(targets, atoms, 2)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match="equal width"):
        solve_omp(torch.randn(3, 4), torch.randn(5, 6), 2)


def test_transfer_is_the_weighted_sum_of_rows():
    targets, atoms = problem()
    rows = torch.randn(len(atoms), 20, generator=torch.Generator().manual_seed(9))
    solution = solve_omp(targets, atoms, 5)
    expected = torch.from_numpy(dense(solution, len(atoms))) @ rows.double()
    torch.testing.assert_close(transfer(solution, rows).double(), expected, rtol=1e-4, atol=1e-4)
    assert transfer(solve_omp(targets[:0], atoms, 5), rows).shape == (0, 20)


def test_a_callers_coarse_products_do_not_reach_the_dictionary(monkeypatch):
    """Else atoms would be turned in bfloat16 or TF32, and would be other atoms."""
    places = [torch.backends.mkldnn.matmul, torch.backends.cuda.matmul]
    seen = []
    build = omp.Dictionary.of

    def watched(*arguments):
        seen.append([place.fp32_precision for place in places])
        return build(*arguments)

    monkeypatch.setattr(omp.Dictionary, "of", watched)
    targets, atoms = problem()
    plain = solve_omp(targets, atoms, 4)
    before = [place.fp32_precision for place in places]
    try:
        places[0].fp32_precision, places[1].fp32_precision = "bf16", "tf32"
        coarse = solve_omp(targets, atoms, 4)
        assert [place.fp32_precision for place in places] == ["bf16", "tf32"]
    finally:
        places[0].fp32_precision, places[1].fp32_precision = before
    assert seen == [["ieee", "ieee"]] * 2
    assert torch.equal(coarse.indices, plain.indices) and torch.equal(coarse.values, plain.values)
