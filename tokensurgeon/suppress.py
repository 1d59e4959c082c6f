"""A row that takes no probability, for ids that are never to be predicted.

A zero row is not such a row: its logit is 0, which can beat every real token. What works in any
architecture, without a bias, rests on a property of trained language models: the states h that
enter the LM head share a large mean, so that ``u = (E[h hᵀ] + λI)⁻¹ E[h]`` has ``u·h ≈ 1`` for
every h. The row ``-c·u`` then has the logit -c everywhere.
"""

from __future__ import annotations

import math

import torch

__all__ = ["suppressing_row"]

TARGET_MASS = 1e-8
"""Probability that all suppressed rows together shall have at most, per state."""
_RIDGE = 1e-3


def suppressing_row(states: torch.Tensor, log_normaliser: torch.Tensor, n_rows: int) -> torch.Tensor:
    """The row that gives ``n_rows`` copies of itself together less than `TARGET_MASS`.

    Args:
        states: (n_states, dim) inputs of the LM head on text that the base reads, float32.
        log_normaliser: (n_states,) logsumexp of the base's logits at these states.
        n_rows: How many rows the output will have of it.

    Returns:
        (dim,) float32.
    """
    states = states.double()
    mean = states.mean(dim=0)
    moment = states.T @ states / len(states)
    moment.diagonal().add_(_RIDGE * moment.diagonal().mean())
    direction = torch.linalg.solve(moment, mean)
    response = states @ direction
    needed = math.log(max(n_rows, 1) / TARGET_MASS) - log_normaliser.double()
    # States to which the direction hardly responds would ask for an endless row; leave out the
    # lowest hundredth.
    floor = torch.quantile(response[:100_000], 0.01).clamp(min=0.1)
    strength = (needed / response.clamp(min=float(floor))).amax().clamp(min=0.0)
    row: torch.Tensor = -strength * direction
    return row.float()
