"""Expert Merging: task vectors with trained coefficients for each layer (Zhang et al. 2025, arXiv 2509.25712)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import deltas

__all__ = ["expert_merge"]


def expert_merge(base: torch.Tensor, models: Sequence[torch.Tensor], coefficients: torch.Tensor) -> torch.Tensor:
    """Add to the base the models' task vectors, each times its coefficient: base + sum(c_i (W_i - base)).

    Differentiable in the coefficients, which `tokensurgeon.merging.estimate.expert_training.fit_expert` trains.

    Args:
        base: What the models were tuned from.
        models: n tensors of its shape.
        coefficients: (n,).

    Returns:
        Shape and dtype of the base.

    Raises:
        InputError: If shapes differ, or the coefficients are for other models.
    """
    if coefficients.shape != (len(models),):
        raise InputError(
            f"coefficients of shape {list(coefficients.shape)} do not go with {len(models)} models beside the base. "
            "Train them for these models, in this order"
        )
    start, tasks = deltas(base, models)
    merged: torch.Tensor = start + torch.tensordot(coefficients.to(tasks.dtype), tasks, dims=1)
    return merged.to(base.dtype)
