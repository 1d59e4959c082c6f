"""Predict what a transplant loses from how both tokenizers cut a text."""

from __future__ import annotations

import math

from tokensurgeon.alignment.cuts import Cuts

__all__ = ["predict_loss"]

_INSIDE, _NEW, _ALL = 5.0, 7.0, 0.01
_RELATIVE, _LEAST = 0.35, 0.02


def predict_loss(cuts: Cuts) -> tuple[float, float]:
    """Bits per byte that a transplant will need more than the base, and half the width of the 90% interval."""
    nats = _INSIDE * cuts.inside + _NEW * cuts.new
    loss = nats / math.log(2) / max(1, cuts.n_bytes)
    return loss, max(_LEAST, _RELATIVE * loss)
