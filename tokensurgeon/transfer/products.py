"""Multiply in the precision in which the machine is fastest, where the result is a statistic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tokensurgeon.solver.scan import precision_for

__all__ = ["coarse_product", "coarse_products"]


def coarse_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n, m) float32 products of (n, dim) rows with (m, dim) rows, of bfloat16's precision where that is faster.

    What is computed from many of them, a mean probability, is off by far less than by the choice of the text.
    """
    kind = precision_for(left.device, certain=True)
    return (left.to(kind) @ right.to(kind).T).float()


def coarse_products(device: torch.device) -> AbstractContextManager[object]:
    """In it, a model multiplies as `coarse_product` does, whatever the dtype of its weights."""
    if precision_for(device, certain=True) is not torch.bfloat16:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
