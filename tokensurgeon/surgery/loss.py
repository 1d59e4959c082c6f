"""Let base and output predict a little text, and say what the transplant costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.loss import BasePiece, Unit, describe_loss, read_base, score_ids, units_of
from tokensurgeon.evaluation.texts import Text, python_text, split_bytes
from tokensurgeon.surgery.pair import Pair
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.emitted import Flags
from tokensurgeon.vocabulary.meeting import token_bytes

__all__ = ["Ruler"]

_READ = 4096
"""Bytes of text."""


@dataclass
class Ruler:
    """Text as the base reads it, to measure the output by.

    Attributes:
        name: Of the text.
        pieces: The text.
        donor: The donor's vocabulary.
        new: (rows,) bool, which rows are reconstructed.
        loss: What the output loses, see `tokensurgeon.evaluation.loss.describe_loss`; None until it is measured.
    """

    name: str
    pieces: Sequence[BasePiece]
    donor: Vocabulary
    new: Flags
    loss: dict[str, Any] | None = None

    @classmethod
    def read(cls, pair: Pair, loaded: LoadedModel, texts: Mapping[str, Text]) -> Self | None:
        """Let the base read; None where it can read nothing of it twice.

        Args:
            pair: The models.
            loaded: The base.
            texts: Of the user, which are read in their middle: `auto` is chosen by the beginning, calibration reads
                the end. Python's own where there are none.
        """
        share = _READ // max(1, len(texts))
        read = {name: text.middle(share) for name, text in texts.items()} or {
            "Python's documentation": python_text(_READ, part=3)
        }
        sides = pair.base.vocabulary, pair.donor.vocabulary
        plan, rows = pair.alignment.plan, len(pair.base_matrices.embedding)
        copied = np.isin(plan.provenance, [Provenance.COPIED, Provenance.ROLE, Provenance.OVERRIDE])
        cut = [piece for text in read.values() for piece in split_bytes(text)]
        pieces = read_base(loaded, sides, np.where(copied, plan.source, -1), rows, cut)
        new = plan.provenance == Provenance.RECONSTRUCTED
        return cls(", ".join(read), pieces, sides[1], new) if pieces else None

    def score(self, loaded: LoadedModel, watched: torch.Tensor) -> float:
        """Measure an output, see `tokensurgeon.verification.running.Scorer`."""
        spelled = token_bytes(self.donor)
        units: list[Unit] = []
        mass, n = 0.0, 0
        for piece in self.pieces:
            nats, taken = score_ids(loaded.model, loaded.prefix, piece.donor, watched)
            units += units_of(piece, nats, spelled)
            mass, n = mass + taken, n + len(nats)
        n_bytes = sum(piece.n_bytes for piece in self.pieces)
        found = describe_loss(units, n_bytes, lambda i: bool(self.new[i]), self.donor.describe)
        self.loss = {"text": self.name} | found
        return mass / max(1, n)
