"""Compute what the methods share: wide enough arithmetic, deltas, weighted means."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError

__all__ = ["deltas", "numerical_rank", "stacked", "weighted_mean"]


def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """(n, *shape) in float32, or float64 where that is what comes in.

    Raises:
        InputError: If there is no tensor, or shapes differ.
    """
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise InputError(f"models to merge must have tensors of one shape; here they are {sorted(shapes)}")
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return torch.stack([tensor.to(wide) for tensor in tensors])


def deltas(base: torch.Tensor, models: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The base, and (n, *shape) what each model adds to it, both wide."""
    all_of_them = stacked([base, *models])
    return all_of_them[0], all_of_them[1:] - all_of_them[0]


def weighted_mean(tensors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of (n, *shape) tensors by weights of the same shape, or one per tensor, over the weights' sum."""
    while weights.ndim < tensors.ndim:
        weights = weights.unsqueeze(-1)
    return (tensors * weights).sum(dim=0) / weights.sum(dim=0)


def numerical_rank(values: torch.Tensor, shape: Sequence[int]) -> int:
    """How many singular values of a matrix are more than rounding.

    Args:
        values: Of a matrix, the largest first.
        shape: Of the matrix.
    """
    return int((values > values[:1] * max(shape) * torch.finfo(values.dtype).eps).sum())
