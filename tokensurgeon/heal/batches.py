"""Pieces of text as both models read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tokensurgeon.evaluation.model import LoadedModel
from tokensurgeon.heal.inside import NextPieces, inside_of
from tokensurgeon.heal.spans import meeting_points, token_bytes
from tokensurgeon.segmentation import is_utf8
from tokensurgeon.vocabulary import Vocabulary

__all__ = ["Piece", "collate", "nth_piece", "read_pieces"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One text.

    Attributes:
        student: Ids in the new tokenization, with the prefix.
        teacher: Ids in the base's own, with its prefix.
        meet: (n, 2) positions in both at which the same bytes have been read.
        inside: (n, 3) the student's position inside of a token of the teacher, the teacher's before that token, and
            which beginning of it has been read, of those that `NextPieces` has.
    """

    student: list[int]
    teacher: list[int]
    meet: list[tuple[int, int]]
    inside: list[tuple[int, int, int]] = field(default_factory=list)


def read_pieces(
    texts: Sequence[str],
    student: LoadedModel,
    teacher: LoadedModel,
    vocabularies: tuple[Vocabulary, Vocabulary],
    cut: Mapping[int, Sequence[int]],
) -> tuple[list[Piece], NextPieces]:
    """Tokenize. Pieces too short to learn from are left out.

    Args:
        texts: What is to be read.
        student: Its tokenizer.
        teacher: Its tokenizer.
        vocabularies: The student's and the teacher's.
        cut: The teacher's tokens as the student cuts them, see `tokensurgeon.heal.spans.cut_by`.

    Returns:
        The pieces, and what comes next inside of the teacher's tokens.
    """
    mine, theirs = (token_bytes(v) for v in vocabularies)
    before, before_there = ([m.prefix] if m.prefix is not None else [] for m in (student, teacher))
    found = []
    for text in texts:
        left, right = student.encode(text), teacher.encode(text)
        if len(left) < 2 or len(right) < 2:
            continue
        here, there = meeting_points([mine[i] for i in left], [theirs[i] for i in right])
        meet = [(i + len(before), j + len(before_there)) for i, j in zip(here, there, strict=True)]
        found.append((before + left, before_there + right, meet))
    exact = {i: pieces for i, pieces in cut.items() if _spelt(pieces, mine) == theirs[i] and is_utf8(theirs[i])}
    spans = [inside_of(ids, there, meet, exact) for ids, there, meet in found]
    number: dict[tuple[int, ...], int] = {}
    pieces = [
        Piece(*one, [(here, before, number.setdefault(read, len(number))) for here, before, read in some])
        for one, some in zip(found, spans, strict=True)
    ]
    return pieces, NextPieces.of(exact, number)


def _spelt(ids: Sequence[int], spelling: Sequence[bytes]) -> bytes:
    return b"".join(spelling[i] for i in ids)


def nth_piece(n: int, position: int, seed: int) -> int:
    """Which of ``n`` pieces comes at a position of an endless order: shuffled, all once before any comes again."""
    return int(_shuffled(n, position // n, seed)[position % n])


@lru_cache(maxsize=2)
def _shuffled(n: int, turn: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng((seed, turn)).permutation(n)


def collate(pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
    """Padded on the right: ids and masks of both; with -1, where they meet and where one is inside of the other."""
    found = {}
    for name in ("student", "teacher"):
        rows = [torch.tensor(getattr(piece, name)) for piece in pieces]
        found[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        ones = [torch.ones_like(row) for row in rows]
        found[f"{name}_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
    for name, width in (("meet", 2), ("inside", 3)):
        rows = [torch.tensor(getattr(piece, name), dtype=torch.int64).reshape(-1, width) for piece in pieces]
        found[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    return found
