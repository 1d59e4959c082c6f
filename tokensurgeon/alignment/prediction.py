"""Predict what a transplant loses from how both tokenizers cut a text."""

from __future__ import annotations

import math

from tokensurgeon.alignment.cuts import Cuts

__all__ = ["NATS_A_NEW_TOKEN", "NATS_A_SPLIT", "SPREAD", "predict_loss"]

NATS_A_SPLIT, NATS_A_NEW_TOKEN = 5.79, 8.17
"""What a token of the base costs that the donor splits, and a token that the base has not.

Fitted to ten real pairs on four texts each, by ridge without pieces (`benchmarks/results/prediction.json`). Pairs of
tokenizers left out of the fit are predicted within 25% in eight of ten cases and within 29% in the others, by ridge; by
OMP with k=64 and its rest dropped in eight, and within 42%. Single texts have a median error of 18%."""
SPREAD = 0.156
"""Times the root of the loss: nine in ten losses of pairs left out are within this of what is predicted. Which of two
donors costs a base less on a text was right in fourteen of sixteen cases."""


def predict_loss(cuts: Cuts) -> tuple[float, float]:
    """Bits per byte that a transplant will need more than its base, and half the width of the 90% interval."""
    nats = NATS_A_SPLIT * cuts.places["split"] + NATS_A_NEW_TOKEN * cuts.new
    loss = nats / math.log(2) / max(1, cuts.n_bytes)
    return loss, SPREAD * math.sqrt(loss)
