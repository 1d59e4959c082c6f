"""OPCM: sequential merging by orthogonal projection (Tang et al. 2025, arXiv 2501.09522)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas, numerical_rank

__all__ = ["opcm_merge", "project"]


def project(task: torch.Tensor, merged: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    """Take out of a task matrix what would touch the merged one: the result is orthogonal to it.

    Args:
        task: (rows, columns), what a new model adds to the base.
        merged: (rows, columns), what has been merged so far, U S V'.
        alpha: Share of the singular values' sum that the protected leading directions hold.

    Returns:
        The task without its components u_i v_j' where i = j, or where both are leading directions (as the authors'
        code has it). Only the thin factors are needed for that, so an embedding can be projected too. Directions whose
        singular value is zero hold nothing and are left free; their vectors would be arbitrary.
    """
    u, s, vt = torch.linalg.svd(merged, full_matrices=False)
    rank = numerical_rank(s, merged.shape)
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    leading = int((s.cumsum(0) < alpha * s.sum()).sum()) + 1
    component = u.T @ task @ vt.T
    taken = torch.diag(component.diagonal())
    taken[:leading, :leading] = component[:leading, :leading]
    projected: torch.Tensor = task - u @ taken @ vt
    return projected


def opcm_merge(base: torch.Tensor, models: Sequence[torch.Tensor], alpha: float = 0.5) -> torch.Tensor:
    """Merge models one after the other, each into what the earlier ones leave free.

    After n models the merged task vector is (lambda_(n-1) merged + projected) / lambda_n, where lambda_n keeps its norm
    at the mean norm of the n task vectors; so the projected ones add up, and only the last lambda shows in the result.
    What is no matrix is added up without projection. The paper takes norms over whole models; a merge that goes tensor
    by tensor takes them within each tensor.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape, in the order in which they came. The first is never projected.
        alpha: See `project`; the paper uses 0.5.

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ or alpha is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; it is a share of the singular values' sum, from 0 to 1")
    start, tasks = deltas(base, models)
    total = tasks[0]
    for task in tasks[1:]:
        total = total + (project(task, total, alpha) if task.ndim == 2 else task)
    norm, wanted = total.norm(), tasks.flatten(1).norm(dim=1).mean()
    merged: torch.Tensor = start + total * (wanted / torch.where(norm > 0, norm, 1))
    return merged.to(base.dtype)
