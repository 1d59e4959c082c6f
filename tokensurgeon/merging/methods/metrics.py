"""Metrics-weighted averaging (Choi and Yu 2025, arXiv 2504.18580)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import stacked, weighted_mean

__all__ = ["metric_weights", "metrics_average"]


def metric_weights(metrics: Sequence[float], penalty: float = 1.0, *, lower_is_better: bool = True) -> list[float]:
    """Weights that sum to 1, from one figure per model.

    The paper weights checkpoints by training loss or by steps, with one penalty factor for how much worse ones are
    held down. Here the factor is an exponent: the weight is ``metric ** -penalty`` where lower is better (a loss),
    ``metric ** penalty`` otherwise (steps, an accuracy). 0 is the plain mean; 8 or 16 tells losses apart that differ
    by some percent.

    Raises:
        InputError: If a metric is not above 0, or the penalty is negative.
    """
    if not metrics or not all(math.isfinite(metric) and metric > 0 for metric in metrics):
        raise InputError(f"metrics are {list(metrics)}; all must be numbers above 0")
    if not (math.isfinite(penalty) and penalty >= 0):
        raise InputError(f"penalty is {penalty}; it must be 0 or more")
    logs = torch.tensor([math.log(metric) for metric in metrics], dtype=torch.float64)
    weights: list[float] = torch.softmax((-penalty if lower_is_better else penalty) * logs, dim=0).tolist()
    return weights


def metrics_average(
    models: Sequence[torch.Tensor], metrics: Sequence[float], penalty: float = 1.0, *, lower_is_better: bool = True
) -> torch.Tensor:
    """Average n tensors of one shape by `metric_weights`.

    Returns:
        Shape and dtype of the first model's tensor.

    Raises:
        InputError: As `metric_weights`, or if there are more models than metrics or fewer.
    """
    if len(models) != len(metrics):
        raise InputError(f"{len(models)} models and {len(metrics)} metrics; give one for each")
    thetas = stacked(models)
    weights = metric_weights(metrics, penalty, lower_is_better=lower_is_better)
    return weighted_mean(thetas, thetas.new_tensor(weights)).to(models[0].dtype)
