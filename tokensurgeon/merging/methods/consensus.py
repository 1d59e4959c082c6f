"""Consensus merging by TALL-masks (Wang et al. 2024, arXiv 2405.07813)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas

__all__ = ["consensus_merge", "tall_masks"]


def tall_masks(tasks: torch.Tensor, threshold: float) -> torch.Tensor:
    """Where each task matters: its entry is not small beside what all others together add there.

    Args:
        tasks: (n, *shape) task vectors.
        threshold: The paper's lambda; more of it keeps less.

    Returns:
        (n, *shape) bool.
    """
    return (tasks != 0) & (tasks.abs() >= threshold * (tasks.sum(dim=0) - tasks).abs())


def consensus_merge(
    base: torch.Tensor, models: Sequence[torch.Tensor], k: int = 2, threshold: float = 0.4, scale: float = 1.0
) -> torch.Tensor:
    """Add to the base the sum of the task vectors, but for entries that matter to fewer than ``k`` of them.

    Entries that matter to one task alone ("selfish") help that one and harm the others; those that matter to none are
    noise.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        k: Tasks to which an entry must matter; the paper's 2.
        threshold: As for `tall_masks`; the paper tries 0.2 to 0.6.
        scale: What the merged task vector is multiplied by: the paper's alpha.

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ, ``k`` is less than 1 or above n, or the threshold is negative.
    """
    if not 1 <= k <= len(models):
        raise InputError(f"k is {k}; it is to how many of the {len(models)} models an entry must matter, 1 at least")
    if threshold < 0:
        raise InputError(f"threshold is {threshold}; it cannot be negative")
    start, tasks = deltas(base, models)
    kept = tall_masks(tasks, threshold).sum(dim=0) >= k
    return (start + scale * tasks.sum(dim=0) * kept).to(base.dtype)
