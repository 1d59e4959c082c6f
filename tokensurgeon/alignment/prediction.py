"""Predict what a transplant loses from how both tokenizers cut a text."""

from __future__ import annotations

import math

from tokensurgeon.alignment.cuts import Cuts

__all__ = ["NATS_A_PLACE", "SPREAD", "predict_loss"]

NATS_A_PLACE = 6.53
"""What a place costs that the donor does not cut as the base does: `benchmarks/results/prediction.json`, fitted to ten
real pairs on four texts each, by ridge. Pairs of tokenizers left out of the fit are predicted within 25% in eight of
ten cases, single texts with a median error of 18%; shares of bytes do worse. A base that reads its own tokens badly
loses less than that."""
SPREAD = 0.193
"""Times the root of the loss: nine in ten losses of pairs left out are within this of what is predicted. Which of two
donors costs a base less on a text was right in ten of sixteen cases."""


def predict_loss(cuts: Cuts) -> tuple[float, float]:
    """Bits per byte that a transplant will need more than its base, and half the width of the 90% interval."""
    loss = NATS_A_PLACE * cuts.changed / math.log(2) / max(1, cuts.n_bytes)
    return loss, SPREAD * math.sqrt(loss)
