"""FW-Merging: merging by Frank-Wolfe optimisation (Chen et al. 2025, arXiv 2503.12649)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import stacked

__all__ = ["frank_wolfe_step", "fw_merge"]

_ROUNDING = 1e-4


def frank_wolfe_step(weights: torch.Tensor, gradient: torch.Tensor, step: float) -> torch.Tensor:
    """Go from a merge some way towards the one model that the gradient points to.

    The merge is sum(w_i W_i), so that the gradient by w_i is the inner product of the gradient by the merged weights
    with W_i, by which the paper chooses. The weights stay on the simplex.

    Args:
        weights: (n,), not negative, of sum 1.
        gradient: (n,), of the loss by the weights.
        step: Share of the way, from 0 to 1; 2 / (t + 2) at step t makes the loss of convex problems fall as 1 / t.

    Returns:
        (n,).
    """
    towards = torch.zeros_like(weights)
    towards[int(gradient.argmin())] = 1
    return (1 - step) * weights + step * towards


def fw_merge(models: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Average n tensors of one shape by weights that `tokensurgeon.merging.estimate.fw_training.fit_fw` found.

    Args:
        models: n tensors of one shape.
        weights: (n,), not negative, of sum 1.

    Returns:
        Shape and dtype of the first model's tensor; differentiable in the weights.

    Raises:
        InputError: If the weights are for other models, or are no weights of an average.
    """
    thetas = stacked(models)
    if weights.shape != (len(models),):
        raise InputError(
            f"weights of shape {list(weights.shape)} do not go with {len(models)} models. Find them for these models, "
            "in this order"
        )
    fixed = weights.detach()
    if bool((fixed < -_ROUNDING).any()) or not abs(float(fixed.sum()) - 1) < _ROUNDING:
        raise InputError(f"weights are {fixed.tolist()}; none may be negative, and their sum is 1")
    merged: torch.Tensor = torch.tensordot(weights.to(thetas.dtype), thetas, dims=1)
    return merged.to(models[0].dtype)
