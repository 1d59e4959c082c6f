"""Multiply in the precision in which the machine is fastest, where the result is a statistic."""

from __future__ import annotations

import torch

from tokensurgeon.solver.scan import precision_for

__all__ = ["coarse_product"]


def coarse_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n, m) float32 products of (n, dim) rows with (m, dim) rows, of bfloat16's precision where that is faster.

    What is computed from many of them, a mean probability, is off by far less than by the choice of the text.
    """
    kind = precision_for(left.device, certain=True)
    return (left.to(kind) @ right.to(kind).T).float()
