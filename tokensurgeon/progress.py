"""Say how far long work is: the stage, what is done of it, and how much there is."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

__all__ = ["Progress", "Stage"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); the stage is a `Stage`, or one with the name of what it is done to."""


class Stage(StrEnum):
    """Stages as people read them."""

    READ = "Reading text"
    COMPARE = "Comparing encodings of"
    STATES = "Reading text through the base"
    VECTORS = "Training vectors on"
    TRIALS = "Trying methods"
    EMBEDDING = "Reconstructing tokens (input embedding)"
    HEAD = "Reconstructing tokens (LM head)"
    VERIFY = "Writing and verifying"
    SCORE = "Scoring"
    GENERATE = "Generating"
    TRANSPLANT = "Transplanting"
    MERGE = "Merging"
    FISHER = "Reading text for the Fisher information"
    DAM = "Training coefficients"
    TENSORS = "Writing tensors"
    HEAL = "Healing (per cent)"

    def of(self, name: str) -> str:
        """The stage, with what it is done to.

        >>> from tokensurgeon.progress import Stage
        >>> Stage.SCORE.of("model")
        'Scoring model'
        """
        return f"{self.value} {name}"
