"""What all training of coefficients shares: whose text comes when, how far two models are apart, groups of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch.nn.functional import log_softmax

__all__ = ["Per", "Tensors", "changed", "divergence", "group_of", "rounds"]

Tensors = Mapping[str, torch.Tensor]
Per = Literal["layer", "model"]

_LAYER = re.compile(r".*?\.\d+(?=\.)")


def rounds(data: Sequence[Sequence[torch.Tensor]], steps: int, seed: int) -> Iterator[list[torch.Tensor]]:
    """For every step one piece of each model's own text, in an order that the seed gives; they come again."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(pieces), generator=generator).tolist() for pieces in data]
    for step in range(steps):
        yield [pieces[order[step % len(order)]] for pieces, order in zip(data, orders, strict=True)]


def changed(first: Tensors, others: Sequence[Tensors]) -> set[str]:
    """Tensors that are not the same in all models: only these need be merged, and kept for their gradients."""
    return {name for name, tensor in first.items() if not all(torch.equal(tensor, of[name]) for of in others)}


def divergence(wanted: torch.Tensor, found: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(wanted || found) of logits (..., classes) at a temperature: nats per position."""
    one, other = (log_softmax(logits.float() / temperature, dim=-1) for logits in (wanted, found))
    return (one.exp() * (one - other)).sum(dim=-1).mean()


def group_of(name: str, per: Per) -> str:
    """Which tensors have coefficients in common.

    >>> group_of("model.layers.3.mlp.up_proj.weight", "layer")
    'model.layers.3'
    >>> group_of("model.norm.weight", "layer")
    'model.norm.weight'
    """
    if per == "model":
        return ""
    layer = _LAYER.match(name)
    return layer[0] if layer else name
