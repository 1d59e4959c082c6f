"""OptMerge: the task vector that disturbs the others least (Wei et al. 2025, arXiv 2505.19892), in one solve."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas, numerical_rank

__all__ = ["interference", "optmerge_merge", "problem"]


def problem(tasks: torch.Tensor, rank: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What the merged task vector must do, and on which inputs.

    Args:
        tasks: (n, rows, columns) task vectors.
        rank: Share of singular directions that is kept; the others are noise.

    Returns:
        (n, rows, columns) tasks, of whose differences from their mean the leading directions are left; and
        (n, kept, columns) S V' of each task over its norm, which stand for the inputs that the task reads.
    """
    mean = tasks.mean(dim=0)
    kept = max(1, int(rank * min(tasks.shape[1:]) + 1e-9))
    targets, inputs = [], []
    for task in tasks:
        u, s, vt = torch.linalg.svd(task - mean, full_matrices=False)
        targets.append((u[:, :kept] * s[:kept]) @ vt[:kept] + mean)
        _, s, vt = torch.linalg.svd(task, full_matrices=False)
        norm = s.norm()
        inputs.append(s[:kept, None] * vt[:kept] / torch.where(norm > 0, norm, 1))
    return torch.stack(targets), torch.stack(inputs)


def interference(merged: torch.Tensor, targets: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The paper's objective: sum over tasks of |(merged - target) inputs'|^2.

    Args:
        merged: (rows, columns).
        targets: As `problem` gives them.
        inputs: As `problem` gives them.

    Returns:
        One number.
    """
    return ((merged - targets) @ inputs.transpose(1, 2)).square().sum()


def optmerge_merge(
    base: torch.Tensor,
    models: Sequence[torch.Tensor],
    rank: float | None = None,
    scale: float = 1.0,
    ridge: float = 1e-3,
    *,
    rows_are_tokens: bool = False,
) -> torch.Tensor:
    """Add to the base the task vector with the least `interference`, by one solve.

    The paper takes 300 steps from the sum of the tasks or, for LoRA, from their mean, and does not come near the
    minimum, which can be many times as long as any task: it follows directions that the tasks hardly read. Here the
    squared distance from the mean, times ``ridge``, is added to the objective. With 0 the result is the very minimum
    that is nearest to the mean; in directions that no task reads, the mean stays.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        rank: Share of singular directions that is kept of each task; the paper's 1 / n by default.
        scale: What the merged task vector is multiplied by.
        ridge: In units of the largest curvature of the objective. 0.001 did well on two fine-tunes of SmolLM2, whose
            minimum without it is worse than the base.
        rows_are_tokens: Take the mean, as of all that is no matrix: an embedding's columns read no inputs.

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ, the rank is not in (0, 1], or the ridge is negative.
    """
    if rank is not None and not 0 < rank <= 1:
        raise InputError(f"rank is {rank}; it is the share of singular directions that is kept, above 0 and at most 1")
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge}; it must be 0 or more")
    start, tasks = deltas(base, models)
    merged = tasks.mean(dim=0)
    if tasks.ndim == 3 and not rows_are_tokens:
        targets, inputs = problem(tasks, rank or 1 / len(models))
        wanted = ((targets - merged) @ inputs.transpose(1, 2)).movedim(0, 1).flatten(1)
        u, s, vt = torch.linalg.svd(inputs.flatten(0, 1), full_matrices=False)
        kept = numerical_rank(s, (len(u), vt.shape[1]))
        u, s, vt = u[:, :kept], s[:kept], vt[:kept]
        merged = merged + (wanted @ u * (s / (s.square() + ridge * s[:1].square()))) @ vt
    return (start + scale * merged).to(base.dtype)
