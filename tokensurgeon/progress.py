"""Say how far long work is: the stage, what is done of it, and how much there is; and afterwards where time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

__all__ = ["Clock", "Progress", "Stage"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); the stage is a `Stage`, or one with the name of what it is done to."""


class Stage(StrEnum):
    """Stages as people read them."""

    READ = "Reading text"
    COMPARE = "Comparing encodings of"
    ALIGN = "Comparing tokenizers"
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
    SEARCH = "Searching (merges tried)"
    FISHER = "Reading text for the Fisher information"
    DAM = "Training coefficients"
    TENSORS = "Writing tensors"
    OWN = "Letting the base write (per cent)"
    HEAL = "Healing (per cent)"
    TEACHER = "Letting the teacher read"
    DISTIL = "Distilling (per cent)"
    WRITE = "Letting the target write"
    LEARN = "Learning from the target (per cent)"

    def of(self, name: str) -> str:
        """The stage, with what it is done to.

        >>> from tokensurgeon.progress import Stage
        >>> Stage.SCORE.of("model")
        'Scoring model'
        """
        return f"{self.value} {name}"


class Clock:
    """Measures stages: their seconds, and the most memory that the process ever held until the end of each.

    >>> from tokensurgeon.progress import Clock
    >>> clock = Clock()
    >>> with clock("aligning"):
    ...     pass
    >>> [stage["stage"] for stage in clock.stages()]
    ['aligning', 'other']
    """

    def __init__(self) -> None:
        """Start."""
        self._begun = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._peak: dict[str, int] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """A stage; one that comes twice is one."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - begun
            self._peak[stage] = _peak_mib()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return round(time.perf_counter() - self._begun, 1)

    def stages(self) -> list[dict[str, str | float | None]]:
        """Each with ``stage``, ``seconds`` and ``peak_mib`` (None where the system does not say); the rest last."""
        rest = time.perf_counter() - self._begun - sum(self._seconds.values())
        found = [(name, seconds, self._peak[name]) for name, seconds in self._seconds.items()]
        return [
            {"stage": name, "seconds": round(seconds, 2), "peak_mib": peak or None}
            for name, seconds, peak in [*found, ("other", rest, _peak_mib())]
        ]


def _peak_mib() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
