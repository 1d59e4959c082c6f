"""Predict what a transplant will lose on a text, from an alignment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokensurgeon.alignment import Alignment
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.alignment.prediction import predict_loss
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.evaluation.texts import Text, split_bytes

__all__ = ["predict"]

_READ = 65_536
"""Characters of each text: more tells little more, and both tokenizers must cut it in small pieces."""


def predict(base: OpenModel, donor: OpenModel, alignment: Alignment, texts: Mapping[str, Text]) -> dict[str, Any]:
    """What tokenizers alone say of a pair: how text is cut, and what that cost other pairs.

    Args:
        base: Keeps its body.
        donor: Gives the tokenizer.
        alignment: Of both.
        texts: Their beginnings are read, as one.

    Returns:
        ``text``, its name; what `Cuts.as_dict` gives; ``loss`` in bits per byte and half of its interval's width,
        ``interval``, see `tokensurgeon.alignment.prediction`.
    """
    pieces = [piece for text in texts.values() for piece in split_bytes(text.beginning(_READ))]
    cuts = Cuts.of(base.vocabulary, donor.vocabulary, alignment.plan, pieces)
    loss, interval = predict_loss(cuts)
    return {"text": ", ".join(texts), **cuts.as_dict(), "loss": loss, "interval": interval}
