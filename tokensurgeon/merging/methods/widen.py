"""WIDEN: merging by weight disentanglement (Yu et al. 2024, arXiv 2408.03092)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.merging.methods.tensors import deltas

__all__ = ["importance", "widen_merge"]


def importance(significance: torch.Tensor, above_average: float = 1.0, score: float = 1.0) -> torch.Tensor:
    """Softmax over models, and a fixed score for what stands out within its own model.

    Args:
        significance: (n, m), how far each of m features of n models is from the base.
        above_average: A feature stands out above this many times its model's mean: the paper's t.
        score: What it is given: the paper's s.

    Returns:
        (n, m).
    """
    stands_out = significance > above_average * significance.mean(dim=1, keepdim=True)
    return torch.where(stands_out, score, torch.softmax(significance, dim=0))


def widen_merge(
    base: torch.Tensor,
    models: Sequence[torch.Tensor],
    above_average: float = 1.0,
    score: float = 1.0,
    *,
    rows_are_tokens: bool = False,
) -> torch.Tensor:
    """Add to the base what the models add, each column by how much its magnitude and direction changed.

    A matrix is taken apart into the norms of its columns and their directions. Changes of the norms, and one minus the
    cosine of the directions, are ranked within each model; ranks become scores by `importance`, and the mean of both
    scores multiplies the column's delta. Vectors go by the size of their changes alone.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        above_average: See `importance`. With 1.0, the better half of each model's columns get ``score``.
        score: See `importance`.
        rows_are_tokens: Rank rows instead of columns, as for an embedding (the paper transposes it). A head that is a
            matrix of its own is treated in the same way, so that tied and untied models merge alike.

    Returns:
        Shape and dtype of the base.
    """
    start, found = deltas(base, models)
    if start.ndim != 2:
        flat = found.flatten(1)
        scores = importance(flat.abs(), above_average, score)
        return (start + (flat * scores).sum(dim=0).reshape(start.shape)).to(base.dtype)
    if rows_are_tokens:
        start, found = start.T, found.transpose(1, 2)
    changed = start + found
    magnitude = (changed.norm(dim=1) - start.norm(dim=0)).abs()
    direction = 1 - torch.cosine_similarity(changed, start.expand_as(changed), dim=1, eps=1e-12)
    first, second = (importance(_ranks(change), above_average, score) for change in (magnitude, direction))
    merged = start + (found * (first + second)[:, None] / 2).sum(dim=0)
    return (merged.T if rows_are_tokens else merged).contiguous().to(base.dtype)


def _ranks(changes: torch.Tensor) -> torch.Tensor:
    """Place of each entry in its row, as a share of the row's length: 0 for the smallest. Ties go by position."""
    places = torch.argsort(torch.argsort(changes, dim=1, stable=True), dim=1)
    return places.to(changes.dtype) / changes.shape[1]
