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


def coarse_products(model: torch.nn.Module) -> AbstractContextManager[object]:
    """In it, a model with weights in float32 multiplies as `coarse_product` does."""
    weight = next(model.parameters())
    if weight.dtype is not torch.float32 or precision_for(weight.device, certain=True) is not torch.bfloat16:
        return nullcontext()
    return torch.autocast(weight.device.type, torch.bfloat16)
