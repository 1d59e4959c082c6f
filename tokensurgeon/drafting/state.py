"""Keep what a draft has learnt from and how far it got, so that an interrupted run goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.evaluation.acceptance import Written
from tokensurgeon.healing.resume import SavedState

__all__ = ["DraftState"]

log = logging.getLogger(__name__)

_SAVE_S = 60.0


class DraftState:
    """As far as it got: what the target wrote is one file, which is no longer touched when the draft learns.

    Attributes:
        texts: By purpose: what the target wrote.
        seconds: Spent on writing.
        training: Of `tokensurgeon.drafting.learn`; None before it begins.
    """

    def __init__(self, target: Path, key: str) -> None:
        """Go on from what was saved, or begin.

        Args:
            target: The output.
            key: What must be the same to go on.
        """
        self._texts, self._training = (SavedState(target, f"{key}{part}", "drafting") for part in ("-texts", ""))
        cpu = torch.device("cpu")
        found = self._texts.load(cpu) or {"texts": {}, "seconds": 0.0}
        self.texts = {purpose: [_unpacked(one) for one in texts] for purpose, texts in found["texts"].items()}
        self.seconds: float = found["seconds"]
        if kept := self._count():
            log.warning("going on with %d texts, saved in %s", kept, self._texts.path)
        self.training: dict[str, Any] | None = self._training.load(cpu) if kept else None
        if self.training is not None:
            log.warning("going on from step %d, saved in %s", self.training["steps"], self._training.path)
        self._saved, self._last = kept, time.perf_counter()

    def of(self, purpose: str) -> list[Written]:
        """Texts for a purpose, to be added to."""
        return self.texts.setdefault(purpose, [])

    def save(self, *, now: bool = False) -> None:
        """Save what is new, once in a while or at once."""
        if not now and time.perf_counter() - self._last < _SAVE_S:
            return
        if (count := self._count()) > self._saved:
            texts = {purpose: [_packed(one) for one in of] for purpose, of in self.texts.items()}
            self._texts.save({"texts": texts, "seconds": self.seconds})
            self._saved = count
        if self.training is not None:
            self._training.save(self.training)
        self._last = time.perf_counter()

    def remove(self) -> None:
        """It is no longer needed."""
        self._texts.remove()
        self._training.remove()

    def _count(self) -> int:
        return sum(map(len, self.texts.values()))


def _packed(text: Written) -> Sequence[Any]:
    return torch.tensor(text.ids), text.start, text.likely.int(), text.probability


def _unpacked(packed: Sequence[Any]) -> Written:
    ids, start, likely, probability = packed
    return Written(ids.tolist(), start, likely.long(), probability)
