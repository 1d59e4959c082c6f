"""Methods by singular vectors, TSV-Merge and OptMerge, on cases with a known answer."""

from __future__ import annotations

import pytest
import torch

from tokensurgeon.merging.methods.optmerge import interference, optmerge_merge, problem
from tokensurgeon.merging.methods.tsvm import densities, outlier_weights, tsvm_merge


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(rows, columns, ranks):
    """Tasks whose row spaces are orthogonal to each other, and their column spaces too."""
    u, v = (torch.linalg.qr(randn(n, n, seed=n))[0] for n in (rows, columns))
    tasks, first = [], 0
    for number, rank in enumerate(ranks):
        part = slice(first, first := first + rank)
        tasks.append((u[:, part] * (1 + randn(rank, seed=number).abs())) @ v[:, part].T)
    return tasks


def exact(base, models, *others, **more):
    """OptMerge without a ridge."""
    return optmerge_merge(base, models, *others, **{"ridge": 0.0} | more)


ZERO = torch.zeros(64, 48, dtype=torch.float64)


@pytest.mark.parametrize("merge", [tsvm_merge, exact])
@pytest.mark.parametrize("ranks", [(3, 5), (2, 4, 1)])
def test_orthogonal_tasks_of_low_rank_add_up(merge, ranks):
    """Each has fewer directions than it may keep; the rest of its singular vectors would be arbitrary."""
    tasks = low_rank(64, 48, ranks)
    assert float((merge(ZERO, tasks) - sum(tasks)).norm() / sum(tasks).norm()) < 4e-15
    halves = merge(ZERO, tasks, scale=0.5)
    torch.testing.assert_close(halves, sum(tasks) / 2, atol=1e-14, rtol=0)


@pytest.mark.parametrize("merge", [tsvm_merge, optmerge_merge])
def test_one_task_comes_back_and_so_do_equal_ones(merge):
    base, model = randn(6, 5), randn(6, 5, seed=1)
    torch.testing.assert_close(merge(base, [model]), model)
    torch.testing.assert_close(merge(base, [model] * 3, 1.0), model)
    torch.testing.assert_close(merge(base, [base, base]), base)
    u, s, vt = torch.linalg.svd(model - base, full_matrices=False)
    leading = (u[:, :2] * s[:2]) @ vt[:2]
    if merge is tsvm_merge:  # the mean of OptMerge stays where no task reads
        torch.testing.assert_close(merge(base, [model], 0.5), base + leading)


@pytest.mark.parametrize("merge", [tsvm_merge, optmerge_merge])
def test_what_is_no_matrix_gets_the_mean(merge):
    for shape in ((7,), (2, 3, 4)):
        base, models = randn(*shape), [randn(*shape, seed=s) for s in (1, 2)]
        torch.testing.assert_close(merge(base, models), sum(models) / 2)
    base, models = randn(7, 3), [randn(7, 3, seed=s) for s in (1, 2)]
    torch.testing.assert_close(optmerge_merge(base, models, rows_are_tokens=True), sum(models) / 2)


def test_tsvm_makes_directions_orthogonal_and_keeps_their_singular_values():
    """By hand, in a plane: two tasks of one direction each, whose left vectors are 60 degrees apart."""
    up, slanted = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 3**0.5 / 2])
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    tasks = [2 * torch.outer(up, first), 3 * torch.outer(slanted, second)]
    merged = tsvm_merge(torch.zeros(2, 2), tasks)
    # The nearest orthonormal pair moves both by 15 degrees.
    angles = torch.deg2rad(torch.tensor([-15.0, 75.0]))
    expected = torch.stack([2 * torch.stack([angles[0].cos(), angles[0].sin()]),
                            3 * torch.stack([angles[1].cos(), angles[1].sin()])], dim=1)  # fmt: skip
    torch.testing.assert_close(merged, expected)
    full = [randn(8, 6, seed=s) for s in (1, 2)]
    found = torch.linalg.svdvals(tsvm_merge(torch.zeros(8, 6).double(), full))
    kept = torch.cat([torch.linalg.svdvals(task)[:3] for task in full]).sort(descending=True).values
    torch.testing.assert_close(found, kept)

    shared = randn(6, 1), torch.linalg.qr(randn(5, 2))[0].T
    same = [shared[0] @ (s * v[None]) for s, v in zip((2, 3), shared[1], strict=True)]
    torch.testing.assert_close(tsvm_merge(torch.zeros(6, 5).double(), same), sum(same) / 2**0.5)  # nothing is made up


def test_the_options_of_r_tsvm():
    spiky, even = torch.full((20, 20), 0.1).double(), torch.ones(20, 20).double()
    spiky[0, 0], spiky[5, 7] = 50.0, -50.0
    assert outlier_weights(torch.stack([spiky, even])).tolist() == [2, 0]
    assert outlier_weights(torch.stack([even, even])).tolist() == [1, 1]
    both = outlier_weights(torch.stack([spiky, 3 * spiky]))
    torch.testing.assert_close(both, torch.ones(2).double())  # the size of a task is not its weight
    one = torch.zeros(4, 5).double()
    one[1, 2] = -3
    assert densities(torch.stack([torch.full((4, 5), -2.0).double(), one, 0 * one])).tolist() == [1, 1 / 20, 0]
    tasks = low_rank(64, 48, (3, 5))
    weights = outlier_weights(torch.stack(tasks)).tolist()
    weighted = sum(w * task for w, task in zip(weights, tasks, strict=True))
    assert weights[0] != weights[1]
    torch.testing.assert_close(tsvm_merge(ZERO, tasks, reweight=True), weighted, atol=1e-13, rtol=0)
    sparse = torch.zeros(48, 48).double()
    sparse.diagonal().copy_(torch.arange(1.0, 49))
    dense = randn(48, 48)
    shares = densities(torch.stack([sparse, dense]))
    shares = shares / shares.sum()
    found = torch.linalg.svdvals(tsvm_merge(torch.zeros_like(dense), [sparse, dense], adaptive=True))
    few, many = (int(share * 48) for share in shares.tolist())
    assert few == 1 and many > 40
    kept = torch.cat([torch.tensor([48.0]), torch.linalg.svdvals(dense)[:many]]).double()
    torch.testing.assert_close(found[: few + many], kept.sort(descending=True).values)


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize(("shape", "rank"), [((10, 8), None), ((6, 14), None), ((9, 9), 0.25), ((10, 8), 0.7)])
def test_optmerge_is_the_minimum_that_lbfgs_finds(shape, rank, ridge):
    """From the mean, where the paper starts too for LoRA; descent never leaves the directions that a task reads."""
    tasks = torch.stack([randn(*shape, seed=s) for s in (1, 2, 3)])
    targets, inputs = problem(tasks, rank or 1 / 3)
    mean, curvature = tasks.mean(dim=0), torch.linalg.matrix_norm(inputs.flatten(0, 1), 2) ** 2
    found = mean.clone().requires_grad_()
    descent = torch.optim.LBFGS([found], max_iter=20_000, max_eval=40_000, tolerance_grad=1e-14,
                                tolerance_change=1e-18, history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        descent.zero_grad()
        loss = interference(found, targets, inputs) + ridge * curvature * (found - mean).square().sum()
        loss.backward()
        return loss

    start = float(closure().detach())
    descent.step(closure)
    merged = optmerge_merge(torch.zeros(shape).double(), list(tasks), rank, ridge=ridge)
    assert float(interference(merged, targets, inputs)) < 0.9 * start
    assert float((merged - found.detach()).norm() / merged.norm()) < 1e-6


def test_a_large_ridge_leaves_the_mean():
    base, models = randn(10, 8), [randn(10, 8, seed=s) for s in (1, 2)]
    torch.testing.assert_close(optmerge_merge(base, models, ridge=1e9), sum(models) / 2)
    assert optmerge_merge(base, models).sub(base).norm() < 0.99 * exact(base, models).sub(base).norm()


def test_optmerge_targets_are_the_tasks_without_their_noise():
    tasks = torch.stack([randn(10, 8, seed=s) for s in (1, 2)])
    targets, inputs = problem(tasks, 1.0)
    torch.testing.assert_close(targets, tasks)
    grams = tasks.transpose(1, 2) @ tasks / tasks.square().sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(inputs.transpose(1, 2) @ inputs, grams)
    targets, inputs = problem(tasks, 0.5)
    assert inputs.shape == (2, 4, 8)
    assert torch.linalg.matrix_rank(targets - tasks.mean(dim=0)).tolist() == [4, 4]
