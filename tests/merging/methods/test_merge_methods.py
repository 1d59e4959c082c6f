"""The merge methods on cases with a known answer. They see tensors only, and need no mergekit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tokensurgeon import InputError
from tokensurgeon.merging.methods.consensus import consensus_merge, tall_masks
from tokensurgeon.merging.methods.dam import dam_merge
from tokensurgeon.merging.methods.expert import expert_merge
from tokensurgeon.merging.methods.fisher import fisher_average
from tokensurgeon.merging.methods.fw import frank_wolfe_step, fw_merge
from tokensurgeon.merging.methods.metrics import metric_weights, metrics_average
from tokensurgeon.merging.methods.opcm import opcm_merge, project
from tokensurgeon.merging.methods.optmerge import optmerge_merge
from tokensurgeon.merging.methods.pcb import balance, pcb_merge
from tokensurgeon.merging.methods.tsvm import tsvm_merge
from tokensurgeon.merging.methods.widen import importance, widen_merge


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_fishers_give_the_mean_and_a_sure_model_wins():
    models, same = [randn(4, 3, seed=s) for s in range(3)], randn(4, 3, seed=9).square()
    torch.testing.assert_close(fisher_average(models, [same] * 3), sum(models) / 3)
    torch.testing.assert_close(fisher_average(models, [torch.zeros(4, 3)] * 3), sum(models) / 3)
    sure = [torch.ones(4, 3), torch.zeros(4, 3), torch.zeros(4, 3)]
    torch.testing.assert_close(fisher_average(models, sure), models[0], atol=1e-5, rtol=0)
    weighted = fisher_average(models, [same] * 3, weights=[0, 1, 3])
    torch.testing.assert_close(weighted, (models[1] + 3 * models[2]) / 4)


def test_fisher_finds_the_minimiser_of_quadratic_losses():
    """Losses (x - m)' diag(h) (x - m) / 2, whose sum has one minimum; the curvature is the Fisher information."""
    minima, curvatures = [randn(5, seed=s) for s in (1, 2)], [randn(5, seed=s).square() + 0.1 for s in (3, 4)]
    x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    loss = sum((h * (x - m) ** 2).sum() / 2 for m, h in zip(minima, curvatures, strict=True))
    (gradient,) = torch.autograd.grad(loss, x)
    newton = -gradient / sum(curvatures)
    torch.testing.assert_close(fisher_average(minima, curvatures, floor=1e-12), newton, atol=1e-9, rtol=0)


def test_metric_weights():
    assert metric_weights([2.0, 4.0]) == pytest.approx([2 / 3, 1 / 3])
    assert metric_weights([2.0, 4.0], 2) == pytest.approx([4 / 5, 1 / 5])
    assert metric_weights([100, 300], lower_is_better=False) == pytest.approx([1 / 4, 3 / 4])
    assert metric_weights([1e-300, 1e300], 3) == pytest.approx([1, 0])
    models = [randn(4, 3, seed=s) for s in range(2)]
    torch.testing.assert_close(metrics_average(models, [3.0, 1.0], 0), sum(models) / 2)
    torch.testing.assert_close(metrics_average(models, [3.0, 1.0]), models[0] / 4 + 3 * models[1] / 4)


def test_one_task_keeps_its_delta():
    base, model = randn(6, 5), randn(6, 5, seed=1)
    torch.testing.assert_close(pcb_merge(base, [model], density=1.0), model)
    torch.testing.assert_close(pcb_merge(base, [model], density=1.0, scale=0.5), (base + model) / 2)
    merged = pcb_merge(base, [model], density=0.2)
    kept = merged != base
    assert int(kept.sum()) == 6  # of 30
    torch.testing.assert_close(merged[kept], model[kept])
    # With one task the balance grows with the square of the delta.
    assert (model - base).abs()[kept].min() > (model - base).abs()[~kept].max()
    torch.testing.assert_close(pcb_merge(base, [model, model], density=1.0), model)


def test_consensus_of_disjoint_tasks_is_their_sum_or_nothing():
    base, first, second = randn(4, 6), torch.zeros(4, 6).double(), torch.zeros(4, 6).double()
    first[:, :3], second[:, 3:] = randn(4, 3, seed=1), randn(4, 3, seed=2)
    models = [base + first, base + second]
    torch.testing.assert_close(consensus_merge(base, models, k=1), base + first + second)
    torch.testing.assert_close(consensus_merge(base, models, k=2), base)
    torch.testing.assert_close(consensus_merge(base, models, k=1, scale=0.5), base + (first + second) / 2)


def test_consensus_by_hand():
    """An entry that both change counts; one that matters to one alone counts for k = 1."""
    tasks = torch.tensor([[1.0, 0.1, -2.0, 0.0], [1.0, 1.0, 0.5, 0.0]])
    assert tall_masks(tasks, 0.4).int().tolist() == [[1, 0, 1, 0], [1, 1, 0, 0]]
    base = torch.zeros(4)
    assert consensus_merge(base, list(tasks)).tolist() == [2, 0, 0, 0]
    torch.testing.assert_close(consensus_merge(base, list(tasks), k=1), torch.tensor([2, 1.1, -1.5, 0]))
    torch.testing.assert_close(consensus_merge(base, list(tasks), threshold=0), torch.tensor([2, 1.1, -1.5, 0]))


def test_pcb_as_the_paper_writes_it():
    """Equations 1 to 4 element by element, in numpy."""
    tasks = np.array([[0.3, -0.2, 0.1, 0.0], [0.1, 0.4, 0.1, -0.3], [-0.2, 0.1, 0.5, 0.1]])

    def norm(x):
        return (x - x.min()) / (x.max() - x.min())

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    beta = np.array([softmax(3 * norm(t * t)) * sum(softmax(norm(t * u)) for u in tasks) for t in tasks])
    np.testing.assert_allclose(balance(torch.from_numpy(tasks)).numpy(), beta * 16)
    for row in beta:
        row[row < np.sort(row)[2]] = 0  # the better half of four
    expected = (beta * tasks).sum(0) / np.where(beta.sum(0) > 0, beta.sum(0), 1)
    base = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    merged = pcb_merge(base, [base + torch.from_numpy(t) for t in tasks], density=0.5)
    np.testing.assert_allclose((merged - base).numpy(), expected, atol=1e-12)


def test_widen_scores():
    """Columns whose rank is above their model's mean get the score, the others a softmax over models."""
    ranks = torch.tensor([[0.0, 0.25, 0.5, 0.75], [0.75, 0.5, 0.25, 0.0]])
    found = importance(ranks, above_average=1.0, score=2.0)
    low, high = 1 / (1 + math.exp(0.75)), 1 / (1 + math.exp(0.25))
    torch.testing.assert_close(found, torch.tensor([[low, high, 2.0, 2.0], [2.0, 2.0, high, low]]))


def test_widen_with_equal_changes_is_the_mean():
    base, change = randn(6, 4), randn(6, 4, seed=1)
    above = 100.0  # nothing stands out
    torch.testing.assert_close(widen_merge(base, [base + change] * 2, above), base + change)
    vector, step = randn(6), randn(6, seed=2)
    torch.testing.assert_close(widen_merge(vector, [vector + step, vector - step], above), vector)
    # Everything stands out; twice half of the change is the change.
    merged = widen_merge(base, [base + change] * 2, above_average=-1.0, score=0.5)
    torch.testing.assert_close(merged, base + change)


def test_widen_column_by_column():
    """A second way to the same numbers: loops over columns, in numpy."""
    base, models = randn(5, 6), [randn(5, 6) + 0.3 * randn(5, 6, seed=s) for s in (3, 4)]
    total = np.zeros((2, 6))
    for kind in ("magnitude", "direction"):
        ranks = np.zeros((2, 6))
        for row, model in zip(ranks, models, strict=True):
            changes = []
            for a, b in zip(base.T.numpy(), model.T.numpy(), strict=True):
                lengths = np.sqrt((a**2).sum()), np.sqrt((b**2).sum())
                changes.append(abs(lengths[1] - lengths[0]) if kind == "magnitude" else 1 - a @ b / math.prod(lengths))
            row[:] = [sum(other < c for other in changes) / 6 for c in changes]
        for column in range(6):
            soft = np.exp(ranks[:, column]) / np.exp(ranks[:, column]).sum()
            total[:, column] += np.where(ranks[:, column] > 2.5 / 6, 1.0, soft) / 2
    expected = base.numpy() + sum((m - base).numpy() * t for m, t in zip(models, total, strict=True))
    np.testing.assert_allclose(widen_merge(base, models).numpy(), expected, atol=1e-12)
    turned = widen_merge(base.T.contiguous(), [m.T for m in models], rows_are_tokens=True)
    np.testing.assert_allclose(turned.T.numpy(), expected, atol=1e-12)


def test_orthogonal_deltas_are_both_kept():
    q, _ = torch.linalg.qr(randn(6, 6))
    p, _ = torch.linalg.qr(randn(4, 4, seed=1))
    base = randn(6, 4, seed=2)
    one, two = (q[:, a] @ torch.diag(s) @ p[:, a].T for a, s in zip(([0, 1], [2, 3]), randn(2, 2).abs(), strict=True))
    torch.testing.assert_close(project(two, one, 0.5), two)
    merged = opcm_merge(base, [base + one, base + two]) - base
    size = (one.norm() + two.norm()) / 2
    torch.testing.assert_close(merged, (one + two) * size / (one + two).norm())


def test_what_was_merged_is_not_touched():
    base, tasks = torch.zeros(6, 4, dtype=torch.float64), [randn(6, 4, seed=s) for s in range(3)]
    for alpha in (0.0, 0.5, 1.0):
        assert float((project(tasks[1], tasks[0], alpha) * tasks[0]).sum()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(project(tasks[0], tasks[0], 0.5), torch.zeros_like(tasks[0]), atol=1e-12, rtol=0)
    u, s, vt = torch.linalg.svd(tasks[0])
    cleaned = u.T @ project(tasks[1], tasks[0], 0.5) @ vt.T
    leading = int((s.cumsum(0) < s.sum() / 2).sum()) + 1
    assert leading == 2 and float(cleaned[:2, :2].abs().max()) < 1e-12 < float(cleaned[2:, :2].abs().min())
    both = tasks[0] + project(tasks[1], tasks[0], 0.3)
    both = both * (tasks[0].norm() + tasks[1].norm()) / 2 / both.norm()
    torch.testing.assert_close(opcm_merge(base, tasks[:2], alpha=0.3), both)
    merged = opcm_merge(base, tasks)
    assert float(merged.norm()) == pytest.approx(sum(float(t.norm()) for t in tasks) / 3)
    assert torch.equal(opcm_merge(base, tasks[:1]), tasks[0])
    torch.testing.assert_close(opcm_merge(base, [base, tasks[1]]), tasks[1] / 2)
    vectors = [t[0] for t in tasks[:2]]
    both = vectors[0] + vectors[1]
    expected = both * (vectors[0].norm() + vectors[1].norm()) / 2 / both.norm()
    torch.testing.assert_close(opcm_merge(base[0], vectors), expected)


def test_dam_scales_columns():
    models = [torch.ones(2, 3), torch.full((2, 3), 10.0)]
    merged = dam_merge(models, torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 2.0]]))
    torch.testing.assert_close(merged, torch.tensor([1.0, 5.5, 20.0]).expand(2, 3))
    torch.testing.assert_close(dam_merge([m[0] for m in models], torch.full((2, 3), 0.5)), torch.full((3,), 5.5))


def test_expert_scales_task_vectors():
    base, models = randn(4, 3), [randn(4, 3, seed=s) for s in (1, 2)]
    merged = expert_merge(base, models, torch.tensor([2.0, -0.5]).double())
    torch.testing.assert_close(merged, base + 2 * (models[0] - base) - (models[1] - base) / 2)
    torch.testing.assert_close(expert_merge(base, models, torch.tensor([0.0, 1.0])), models[1])
    torch.testing.assert_close(expert_merge(base[0], [m[0] for m in models], torch.zeros(2)), base[0])


def test_frank_wolfe_finds_the_nearest_average():
    """T + d and T - 2d: two thirds and one third give T; outside of the hull the nearest corner wins."""

    def found(models, wanted, steps=4000):
        weights = torch.full((len(models),), 1 / len(models)).double()
        for step in range(steps):
            gap = fw_merge(models, weights) - wanted
            weights = frank_wolfe_step(weights, torch.stack([(gap * m).sum() for m in models]), 2 / (step + 2))
            assert float(weights.min()) >= 0 and float(weights.sum()) == pytest.approx(1)
        return weights.tolist()

    aim, d = randn(5, 4), randn(5, 4, seed=1)
    assert found([aim + d, aim - 2 * d], aim) == pytest.approx([2 / 3, 1 / 3], abs=1e-3)
    three = [randn(5, 4, seed=s) for s in (1, 2, 3)]
    inside = sum(w * m for w, m in zip((0.2, 0.3, 0.5), three, strict=True))
    assert found(three, inside) == pytest.approx([0.2, 0.3, 0.5], abs=5e-3)
    assert found(three, 3 * three[1] - three[0] - three[2], 50) == pytest.approx([0, 1, 0], abs=1e-12)
    step = frank_wolfe_step(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([3.0, 1.0, 2.0]), 0.25)
    assert step.tolist() == [0.375, 0.625, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes_stay(dtype):
    base, models = randn(4, 3).to(dtype), [randn(4, 3, seed=s).to(dtype) for s in (1, 2)]
    results = [
        fisher_average(models, [torch.ones(4, 3)] * 2), metrics_average(models, [1, 2]), pcb_merge(base, models),
        widen_merge(base, models), opcm_merge(base, models), dam_merge(models, torch.ones(2, 3)),
        consensus_merge(base, models), tsvm_merge(base, models, reweight=True, adaptive=True),
        optmerge_merge(base, models), expert_merge(base, models, torch.ones(2)),
        fw_merge(models, torch.full((2,), 0.5)),
    ]  # fmt: skip
    assert {(result.dtype, result.shape) for result in results} == {(dtype, base.shape)}


def test_bad_input():
    one, two = torch.ones(2, 3), torch.ones(3, 2)
    refused = {
        "one shape": lambda: fisher_average([one, two], [one, one]),
        "make them from": lambda: fisher_average([one, one], [two, two]),
        "negative or not": lambda: fisher_average([one, one], [one, -one]),
        "floor is 0": lambda: fisher_average([one], [one], floor=0),
        "weights are": lambda: fisher_average([one, one], [one, one], weights=[0, 0]),
        "2 models and 1": lambda: metrics_average([one, one], [1.0]),
        "metrics are": lambda: metric_weights([1.0, 0.0]),
        "penalty is": lambda: metric_weights([1.0], -1),
        "density is": lambda: pcb_merge(one, [one], density=0),
        "k is 0": lambda: consensus_merge(one, [one], k=0),
        "threshold is": lambda: consensus_merge(one, [one], k=1, threshold=-1),
        "alpha is": lambda: opcm_merge(one, [one], alpha=1.5),
        "rank is 0": lambda: tsvm_merge(one, [one], 0),
        "rank is 1.5": lambda: optmerge_merge(one, [one], 1.5),
        "ridge is -1": lambda: optmerge_merge(one, [one], ridge=-1),
        "weights of shape": lambda: fw_merge([one, one], torch.ones(3)),
        "none may be negative, and their": lambda: fw_merge([one, one], torch.tensor([1.5, -0.5])),
        "their sum is 1": lambda: fw_merge([one, one], torch.tensor([0.5, 0.4])),
        "2 models beside the base": lambda: expert_merge(one, [one, one], torch.ones(2, 3)),
        "do not go with 2 tensors": lambda: dam_merge([one, one], torch.ones(3, 3)),
    }
    for message, call in refused.items():
        with pytest.raises(InputError, match=message):
            call()
