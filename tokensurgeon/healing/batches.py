"""Cut text into pieces, and encode each as both models read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np

from tokensurgeon.evaluation.context import halved
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.meeting import meeting_points, token_bytes

__all__ = ["Piece", "Pieces", "nth_piece"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One text.

    Attributes:
        student: Ids in the new tokenization, with the prefix.
        teacher: Ids in the base's own, with its prefix.
        meet: (n, 2) positions in both at which the same bytes have been read.
    """

    student: list[int]
    teacher: list[int]
    meet: list[tuple[int, int]]


class Pieces(Sequence[Piece]):
    """Pieces of text, each encoded when it is asked for: what is kept in memory is where they lie."""

    def __init__(
        self,
        texts: Sequence[str],
        student: LoadedModel,
        teacher: LoadedModel,
        vocabularies: tuple[Vocabulary, Vocabulary],
        progress: Progress | None = None,
    ) -> None:
        """Look through the texts once.

        Pieces that exceed a model's context are halved until both can read them, those too short to learn from left
        out.

        Args:
            texts: The pieces as text.
            student: The model to train.
            teacher: What it is to do as.
            vocabularies: The student's and the teacher's.
            progress: Called with (stage, pieces read, pieces in all).
        """
        self.texts, self.sides = texts, (student, teacher)
        self.bytes = tuple(token_bytes(v) for v in vocabularies)
        self.used: set[int] = set()
        """The student's ids in them."""
        places = []
        for number, text in enumerate(texts):
            begin = 0
            for part in halved(text, lambda part: all(side.reads(part) for side in self.sides)):
                left, right = (side.encode(part) for side in self.sides)
                if len(left) > 1 and len(right) > 1:
                    places.append((number, begin, begin + len(part)))
                    self.used.update(left)
                begin += len(part)
            if progress is not None:
                progress(Stage.READ, number + 1, len(texts))
        self.places = np.array(places, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        """How many."""
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Piece: ...

    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...

    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        """One of them, or some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, begin, end = self.places[index].tolist()
        text = self.texts[number][begin:end]
        left, right = (side.encode(text) for side in self.sides)
        here, there = meeting_points([self.bytes[0][i] for i in left], [self.bytes[1][i] for i in right])
        before, before_there = ([side.prefix] if side.prefix is not None else [] for side in self.sides)
        meet = [(i + len(before), j + len(before_there)) for i, j in zip(here, there, strict=True)]
        return Piece(before + left, before_there + right, meet)


def nth_piece(n: int, position: int, seed: int) -> int:
    """Which of ``n`` pieces comes at a position of an endless order: shuffled, all once before any comes again."""
    return int(_shuffled(n, position // n, seed)[position % n])


@lru_cache(maxsize=16)
def _shuffled(n: int, turn: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng((seed, turn)).permutation(n)
