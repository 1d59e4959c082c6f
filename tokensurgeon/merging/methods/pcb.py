"""PCB-Merging: parameter competition balancing (Du et al. 2024, arXiv 2410.02396)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas

__all__ = ["balance", "pcb_merge"]


def balance(tasks: torch.Tensor) -> torch.Tensor:
    """How much each parameter of each model counts: its weight within its task and across tasks, multiplied.

    Args:
        tasks: (n, d) task vectors.

    Returns:
        (n, d): intra-balancing softmax(n Norm(t_i t_i)) times inter-balancing sum_j softmax(Norm(t_i t_j)), where Norm
        stretches a row onto 0 to 1. Scaled by d squared, which cancels, so that float32 does not run out.
    """
    n, d = tasks.shape
    intra = torch.softmax(n * _norm(tasks.square()), dim=1) * d
    inter = torch.zeros_like(tasks)
    for other in tasks:
        inter += torch.softmax(_norm(tasks * other), dim=1) * d
    return intra * inter


def pcb_merge(
    base: torch.Tensor, models: Sequence[torch.Tensor], density: float = 0.2, scale: float = 1.0
) -> torch.Tensor:
    """Add to the base what competing task vectors agree on, each parameter by its balance.

    The paper balances over whole models; a merge that goes tensor by tensor balances within each tensor.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        density: Share of each task vector that is kept, by balance. The paper's ratio, 0.2.
        scale: What the merged task vector is multiplied by: the paper's lambda.

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ or the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise InputError(f"density is {density}; it is the share that is kept, above 0 and at most 1")
    start, found = deltas(base, models)
    tasks = found.flatten(1)
    if tasks.shape[1] == 0:
        return base
    weights = balance(tasks)
    kept = math.ceil(density * tasks.shape[1])
    least = torch.kthvalue(weights, tasks.shape[1] - kept + 1, dim=1, keepdim=True).values
    weights = torch.where(weights >= least, weights, 0)
    total = weights.sum(dim=0)
    merged = (weights * tasks).sum(dim=0) / torch.where(total > 0, total, 1)
    return (start + scale * merged.reshape(start.shape)).to(base.dtype)


def _norm(rows: torch.Tensor) -> torch.Tensor:
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    return (rows - low) / torch.where(high > low, high - low, 1)
