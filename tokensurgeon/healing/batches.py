"""Cut text into pieces, and encode each as both models read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tokensurgeon.evaluation.context import halved
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.meeting import meeting_points, token_bytes
from tokensurgeon.vocabulary import Vocabulary

__all__ = ["Piece", "collate", "in_passes", "nth_piece", "read_pieces"]


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


def read_pieces(
    texts: Sequence[str], student: LoadedModel, teacher: LoadedModel, vocabularies: tuple[Vocabulary, Vocabulary]
) -> list[Piece]:
    """Tokenize; ``vocabularies`` are the student's and the teacher's.

    Pieces that exceed a model's context are halved until both can read them, those too short to learn from left out.
    """
    mine, theirs = (token_bytes(v) for v in vocabularies)
    before, before_there = ([m.prefix] if m.prefix is not None else [] for m in (student, teacher))
    limits = [(m, m.context - len(b)) for m, b in ((student, before), (teacher, before_there)) if m.context is not None]

    def fits(text: str) -> bool:
        return all(len(model.encode(text)) <= limit for model, limit in limits)

    found = []
    for text in (part for piece in texts for part in halved(piece, fits)):
        left, right = student.encode(text), teacher.encode(text)
        if len(left) < 2 or len(right) < 2:
            continue
        here, there = meeting_points([mine[i] for i in left], [theirs[i] for i in right])
        meet = [(i + len(before), j + len(before_there)) for i, j in zip(here, there, strict=True)]
        found.append(Piece(before + left, before_there + right, meet))
    return found


def nth_piece(n: int, position: int, seed: int) -> int:
    """Which of ``n`` pieces comes at a position of an endless order: shuffled, all once before any comes again."""
    return int(_shuffled(n, position // n, seed)[position % n])


@lru_cache(maxsize=2)
def _shuffled(n: int, turn: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng((seed, turn)).permutation(n)


def in_passes(pieces: Sequence[Piece], rows: tuple[int, int], stride: int, limit: int) -> Iterator[list[Piece]]:
    """Cut a batch so that the logits of a part stay below a limit, if only it has more than one piece.

    Args:
        pieces: The batch.
        rows: Of the student's LM head and the teacher's.
        stride: The teacher gives logits at every so many meetings.
        limit: Bytes, in float32.
    """
    part: list[Piece] = []
    largest = 0
    for piece in pieces:
        own = 4 * (len(piece.student) * rows[0] + -(-len(piece.meet) // stride) * rows[1])
        largest = max(largest, own)  # the others are padded to it
        if part and (len(part) + 1) * largest > limit:
            yield part
            part, largest = [], own
        part.append(piece)
    yield part


def collate(pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
    """Padded on the right: ids and masks of both, and where they meet, padded with -1."""
    found = {}
    for name in ("student", "teacher"):
        rows = [torch.tensor(getattr(piece, name)) for piece in pieces]
        found[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ones = [torch.ones_like(row) for row in rows]
        found[f"{name}_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    meet = [torch.tensor(piece.meet).reshape(-1, 2) for piece in pieces]
    found["meet"] = torch.nn.utils.rnn.pad_sequence(meet, batch_first=True, padding_value=-1)
    return found
