"""Measure how models of one shape lie to each other: lengths and angles of what each adds to a base."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokensurgeon.checkpoint import Checkpoint

__all__ = ["Angles", "angles", "lock_ratio"]

_LAYER = re.compile(r"^(.*\.)(?:self_attn|attn|attention)\.v_proj\.weight$")
_STILL = 0.01
"""Change of values and outputs, as a share, below which rounding may be most of it."""


@dataclass(frozen=True, slots=True)
class Angles:
    """How models lie to each other, over the same tensors of all.

    Attributes:
        weights: (n, n) cosines between the weights themselves.
        length: (n,) lengths of what each adds to the first, over the length of the first.
        changes: (n, n) cosines between what they add to the first; 0 for the first itself and its copies.
    """

    weights: np.ndarray[Any, np.dtype[np.float64]]
    length: np.ndarray[Any, np.dtype[np.float64]]
    changes: np.ndarray[Any, np.dtype[np.float64]]


def angles(models: Sequence[Checkpoint], names: Sequence[str]) -> Angles:
    """Read all models once, tensor by tensor.

    Args:
        models: The first is what the others are measured from.
        names: Tensors that all have in the same shape.
    """
    n = len(models)
    weights, changes = np.zeros((n, n)), np.zeros((n, n))
    for name in names:
        rows = torch.stack([files.read(name).flatten().float() for files in models])
        weights += (rows @ rows.T).double().numpy()
        moved = rows - rows[0]
        changes += (moved @ moved.T).double().numpy()
    length = np.sqrt(np.diag(changes) / max(weights[0, 0], 1e-300))
    return Angles(_cosines(weights), length, _cosines(changes))


def _cosines(gram: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    norms = np.sqrt(np.diag(gram))
    scale = np.outer(norms, norms)
    found: np.ndarray[Any, np.dtype[np.float64]] = np.divide(gram, scale, out=np.zeros_like(gram), where=scale > 0)
    return found


def lock_ratio(model: Checkpoint, base: Checkpoint, config: Mapping[str, Any]) -> float | None:
    """How much values and outputs of attention changed, over how much their product did.

    Training changes the product of both matrices about as much as the matrices; a model that was locked against merging
    (MergeLock, arXiv 2509.01548) has other matrices of nearly the same product.

    Args:
        model: Its tensors.
        base: Of the same shapes.
        config: Its ``config.json``, or the part that describes the language model.

    Returns:
        The median over layers; None where the layers are of another build, or hardly differ.
    """
    heads = config.get("num_attention_heads")
    ratios = []
    for name in model.tensors:
        found = _LAYER.match(name)
        output = name.replace("v_proj", "o_proj")
        if (
            found is None
            or not isinstance(heads, int)
            or not {name, output} <= base.tensors.keys() & model.tensors.keys()
        ):
            continue
        ratio = _ratio([files.read(one).double() for files in (model, base) for one in (name, output)], heads)
        if ratio is not None:
            ratios.append(ratio)
    return float(np.median(ratios)) if ratios else None


def _ratio(matrices: Sequence[torch.Tensor], heads: int) -> float | None:
    """Of one layer: its values and outputs, and the base's."""
    values, outputs, base_values, base_outputs = matrices
    width = outputs.shape[1] // heads
    if values.shape != base_values.shape or outputs.shape != base_outputs.shape or outputs.shape[1] % heads:
        return None
    if values.shape[0] % width or heads % (groups := values.shape[0] // width):
        return None
    moved = (values - base_values).square().sum() + (outputs - base_outputs).square().sum()
    alone = math.sqrt(float(moved / (base_values.square().sum() + base_outputs.square().sum())))
    if alone < _STILL:
        return None

    group = torch.arange(heads) // (heads // groups)  # whose values a head has
    pairs = ((values, outputs), (base_values, base_outputs))
    new, old = ((v.reshape(groups, width, -1)[group], o.T.reshape(heads, width, -1)) for v, o in pairs)

    def inner(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> float:
        """Of the products of both, head by head, without making them."""
        return float(((one[1] @ other[1].mT) * (one[0] @ other[0].mT)).sum())

    size = inner(old, old)
    change = max(inner(new, new) - 2 * inner(new, old) + size, 0.0)
    return alone / max(math.sqrt(change / max(size, 1e-300)), 1e-6)
