"""DAM: differentiable adaptive merging (Gauthier-Caron et al. 2024, arXiv 2410.08371)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import stacked

__all__ = ["dam_merge"]


def dam_merge(models: Sequence[torch.Tensor], coefficients: torch.Tensor) -> torch.Tensor:
    """Sum of the models' tensors, each column scaled by its own coefficient: sum(W_i diag(c_i)).

    Differentiable in the coefficients, which `tokensurgeon.merging.estimate.dam_training.fit` trains.

    Args:
        models: n tensors of one shape, (..., columns).
        coefficients: (n, columns). An embedding has one for each of its dimensions, a vector for each entry.

    Returns:
        Shape and dtype of the first model's tensor.

    Raises:
        InputError: If the coefficients are for other models.
    """
    thetas = stacked(models)
    if coefficients.shape != (len(models), thetas.shape[-1]):
        raise InputError(
            f"coefficients of shape {list(coefficients.shape)} do not go with {len(models)} tensors of "
            f"{thetas.shape[-1]} columns. Train them for these models, in this order"
        )
    wide = coefficients.to(thetas.dtype).reshape(len(models), *[1] * (thetas.ndim - 2), -1)
    return (thetas * wide).sum(dim=0).to(models[0].dtype)
