"""TSV-Merge: merging by task singular vectors (Gargiulo et al. 2024, arXiv 2412.00081)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas, numerical_rank

__all__ = ["densities", "outlier_weights", "tsvm_merge"]

_SIGMAS = 3.0


def outlier_weights(tasks: torch.Tensor) -> torch.Tensor:
    """What each task counts: by how much of its sum of magnitudes lies in outliers, at a mean of 1.

    An outlier is an entry whose magnitude exceeds the mean of its task by three standard deviations. That such weights
    help language models is the idea of R-TSVM (Yang et al. 2025, arXiv 2502.06876); the formula is ours.

    Args:
        tasks: (n, *shape) task vectors.

    Returns:
        (n,); ones if no task has outliers.
    """
    sizes = tasks.flatten(1).abs()
    limit = sizes.mean(dim=1, keepdim=True) + _SIGMAS * sizes.std(dim=1, keepdim=True, correction=0)
    total = sizes.sum(dim=1)
    share = torch.where(sizes > limit, sizes, 0).sum(dim=1) / torch.where(total > 0, total, 1)
    return share / share.mean() if share.sum() > 0 else torch.ones_like(share)


def densities(tasks: torch.Tensor) -> torch.Tensor:
    """How evenly each task is spread over its entries: (sum of magnitudes)^2 / (entries x sum of squares).

    Returns:
        (n,): 1 where all entries are of one size, 1 / entries where one of them is not zero, 0 for no change at all.
    """
    sizes = tasks.flatten(1).abs()
    squares = sizes.square().sum(dim=1) * sizes.shape[1]
    return sizes.sum(dim=1).square() / torch.where(squares > 0, squares, 1)


def tsvm_merge(
    base: torch.Tensor,
    models: Sequence[torch.Tensor],
    rank: float | None = None,
    scale: float = 1.0,
    *,
    reweight: bool = False,
    adaptive: bool = False,
) -> torch.Tensor:
    """Add to the base the leading singular directions of every task, made orthogonal to those of the others.

    The left singular vectors of all tasks side by side are replaced by the nearest orthonormal ones, and so are the
    right ones; singular values stay. Directions whose singular value is zero but for rounding are left out: their
    vectors are arbitrary and would push the others aside. What is no matrix gets the mean of the deltas.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        rank: Share of a matrix's singular directions that each task keeps; the paper's 1 / n by default. Above that
            not all can be made orthogonal.
        scale: What the merged task vector is multiplied by: the paper's alpha.
        reweight: Multiply the singular values of each task by `outlier_weights`.
        adaptive: Divide the directions among tasks by `densities` instead of equally. That sparse layers need fewer is
            the other idea of R-TSVM; the formula is ours.

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ or the rank is not in (0, 1].
    """
    if rank is not None and not 0 < rank <= 1:
        raise InputError(f"rank is {rank}; it is the share of singular directions that is kept, above 0 and at most 1")
    start, tasks = deltas(base, models)
    if tasks.ndim != 3:
        return (start + scale * tasks.mean(dim=0)).to(base.dtype)
    shares = torch.full((len(models),), rank or 1 / len(models), dtype=torch.float64)
    if adaptive and (found := densities(tasks).double().cpu()).sum() > 0:
        shares = (shares * found / found.mean()).clamp(max=1)
    weights = outlier_weights(tasks) if reweight else tasks.new_ones(len(models))
    left, values, right = [], [], []
    for task, share, weight in zip(tasks, shares.tolist(), weights, strict=True):
        u, s, vt = torch.linalg.svd(task, full_matrices=False)
        kept = min(max(1, int(share * len(s) + 1e-9)), numerical_rank(s, task.shape))
        left.append(u[:, :kept])
        values.append(weight * s[:kept])
        right.append(vt[:kept])
    merged = (_nearest_orthonormal(torch.cat(left, dim=1)) * torch.cat(values)) @ _nearest_orthonormal(torch.cat(right))
    return (start + scale * merged).to(base.dtype)


def _nearest_orthonormal(vectors: torch.Tensor) -> torch.Tensor:
    """The polar factor; where vectors depend on each other, they share what they span."""
    u, s, vt = torch.linalg.svd(vectors, full_matrices=False)
    rank = numerical_rank(s, vectors.shape)
    nearest: torch.Tensor = u[:, :rank] @ vt[:rank]
    return nearest
