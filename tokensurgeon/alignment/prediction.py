"""Predict what a transplant loses from how both tokenizers cut a text."""

from __future__ import annotations

import math

from tokensurgeon.alignment.cuts import Cuts

__all__ = ["NATS_A_PLACE", "SPREAD", "predict_loss"]

NATS_A_PLACE = 6.2
"""What a place costs that the donor does not cut as the base does: `benchmarks/results/prediction.json`, fitted to five
real pairs on five texts each, by ridge. A pair left out of the fit is predicted with a median error of 24%; shares of
bytes, and a figure for each kind of place, do worse. A base that reads its own tokens badly loses less than that."""
SPREAD = 0.32
"""Times the root of the loss: nine in ten losses of pairs left out are within this of what is predicted. Five pairs are
few, and which of two donors costs a base less was right in six of ten cases, where both were predicted alike."""


def predict_loss(cuts: Cuts) -> tuple[float, float]:
    """Bits per byte that a transplant will need more than its base, and half the width of the 90% interval."""
    loss = NATS_A_PLACE * cuts.changed / math.log(2) / max(1, cuts.n_bytes)
    return loss, SPREAD * math.sqrt(loss)
