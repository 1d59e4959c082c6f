"""Normalise logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["in_parts", "log_normaliser"]

_CACHED, _ENTRIES = 1 << 20, 1 << 24
"""In float32 at a time: what stays in a processor's cache between two steps, and elsewhere."""


def log_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """(n,) float32 logsumexp of (n, vocab) logits of any floating dtype: four times as fast as torch's, in less memory.

    >>> from tokensurgeon.evaluation.logits import log_normaliser
    >>> log_normaliser(torch.tensor([[0.0, 0.0]]))
    tensor([0.6931])
    """
    found = []
    for part in in_parts(logits):
        some = logits[part]
        top = some.amax(dim=1, keepdim=True).float()
        top = torch.where(top.isfinite(), top, 0.0)  # all of them may be minus infinity
        found.append(top[:, 0] + (some.float() - top).exp_().sum(dim=1).log_())
    return torch.cat(found) if found else logits.new_zeros(0, dtype=torch.float32)


def in_parts(logits: torch.Tensor) -> Iterator[slice]:
    """Rows of (n, vocab) logits that are worked on at a time."""
    entries = _CACHED if logits.device.type == "cpu" else _ENTRIES
    rows = max(1, entries // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        yield slice(start, min(start + rows, len(logits)))
