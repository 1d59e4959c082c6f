"""Predict what a transplant loses from how both tokenizers cut a text."""

from __future__ import annotations

import math

from tokensurgeon.alignment.cuts import Cuts

__all__ = ["NATS_A_PLACE", "SPREAD", "predict_loss"]

NATS_A_PLACE = 6.34
"""What a place costs that the donor does not cut as the base does, fitted to real pairs, each on five texts, by ridge
(benchmarks/results/prediction.json). The form is the one that predicts pairs best which it was not fitted to."""
SPREAD = 0.2
"""Times the root of the loss: nine in ten losses of pairs left out of the fit lie within this of what is predicted."""


def predict_loss(cuts: Cuts) -> tuple[float, float]:
    """Bits per byte that a transplant will need more than its base, and half the width of the 90% interval."""
    loss = NATS_A_PLACE * cuts.changed / math.log(2) / max(1, cuts.n_bytes)
    return loss, SPREAD * math.sqrt(loss)
