"""Fisher-weighted averaging (Matena and Raffel 2022, arXiv 2111.09832)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import stacked, weighted_mean

__all__ = ["fisher_average"]


def fisher_average(
    models: Sequence[torch.Tensor],
    fishers: Sequence[torch.Tensor],
    weights: Sequence[float] | None = None,
    floor: float = 1e-6,
) -> torch.Tensor:
    """Average each parameter by how sure each model is of it: sum(w F theta) / sum(w F).

    With quadratic losses this is the minimiser of their weighted sum.

    Args:
        models: n tensors of one shape.
        fishers: For each the diagonal of its Fisher information, of the same shape, not negative.
        weights: What each model counts; 1 by default.
        floor: Added to every Fisher, as a share of the mean of all: where no model knows anything, the
            result is the plain mean.

    Returns:
        Shape and dtype of the first model's tensor.

    Raises:
        InputError: If shapes differ, a Fisher is negative, or the weights are not positive in sum.
    """
    thetas, information = stacked(models), stacked(fishers)
    if information.shape != thetas.shape:
        raise InputError(
            f"{len(models)} tensors of shape {list(thetas.shape[1:])}, and {len(fishers)} Fishers of "
            f"{list(information.shape[1:])}: make them from the models that are merged"
        )
    if not bool((information >= 0).all()):
        raise InputError("a Fisher has entries that are negative or not numbers; make it again")
    if floor <= 0:
        raise InputError(f"floor is {floor}; it must be above 0, because rows that a text does not use have no Fisher")
    share = torch.tensor(list(weights or [1.0] * len(models)), dtype=thetas.dtype, device=thetas.device)
    if bool((share < 0).any()) or not float(share.sum()) > 0:
        raise InputError(f"weights are {share.tolist()}; none may be negative, and one must be above 0")
    mean = information.mean()
    information = information + (floor * mean if mean > 0 else 1.0)
    return weighted_mean(thetas, information * share.reshape(-1, *[1] * (thetas.ndim - 1))).to(models[0].dtype)
