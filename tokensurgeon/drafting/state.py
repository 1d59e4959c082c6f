"""Keep what a draft has learnt from and how far it got, so that an interrupted run goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from tokensurgeon.evaluation.acceptance import Written
from tokensurgeon.healing.resume import SavedState

__all__ = ["DraftState"]

_SAVE_S = 60.0


class DraftState:
    """As far as it got.

    Attributes:
        texts: By purpose: what the target wrote.
        seconds: Spent on writing and learning.
        training: Of `tokensurgeon.drafting.learn`; None before it begins.
    """

    def __init__(self, saved: SavedState) -> None:
        """Go on from what was saved, or begin."""
        found = saved.load(torch.device("cpu")) or {"texts": {}, "seconds": 0.0, "training": None}
        self.texts = {purpose: [_unpacked(one) for one in texts] for purpose, texts in found["texts"].items()}
        self.seconds: float = found["seconds"]
        self.training: dict[str, Any] | None = found["training"]
        self._saved, self._last = saved, time.perf_counter()

    def of(self, purpose: str) -> list[Written]:
        """Texts for a purpose, to be added to."""
        return self.texts.setdefault(purpose, [])

    def save(self, *, now: bool = False) -> None:
        """Save once in a while, or at once."""
        if not now and time.perf_counter() - self._last < _SAVE_S:
            return
        steps = self.training["steps"] if self.training else 0
        texts = {purpose: [_packed(one) for one in of] for purpose, of in self.texts.items()}
        self._saved.save(
            {"report": {"steps": steps}, "texts": texts, "seconds": self.seconds, "training": self.training}
        )
        self._last = time.perf_counter()

    def remove(self) -> None:
        """It is no longer needed."""
        self._saved.remove()


def _packed(text: Written) -> Sequence[Any]:
    return torch.tensor(text.ids), text.start, text.likely.int(), text.probability


def _unpacked(packed: Sequence[Any]) -> Written:
    ids, start, likely, probability = packed
    return Written(ids.tolist(), start, likely.long(), probability)
