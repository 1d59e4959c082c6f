"""Where two tokenizations of one text meet, and what their next tokens have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tokensurgeon.alignment import Alignment
from tokensurgeon.segmentation import base_pieces
from tokensurgeon.vocabulary import Vocabulary

__all__ = ["byte_lengths", "first_shared", "meeting_points"]


def byte_lengths(vocabulary: Vocabulary) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Bytes of text that each id stands for; 0 for control tokens and holes."""
    return np.array([len(key.data) if key is not None and key.is_text else 0 for key in vocabulary.keys])


def meeting_points(left: Sequence[int], right: Sequence[int]) -> tuple[list[int], list[int]]:
    """Positions in two tokenizations at which the same bytes have been read.

    Both are counted from the end: some tokenizers put a space before the text, none behind it.

    Args:
        left: Bytes of each token.
        right: Those of the other tokenization of the same text.

    Returns:
        Indices of the last tokens read, in step.
    """
    behind = {int(rest): i for i, rest in enumerate(np.cumsum(left[::-1])[::-1] - np.asarray(left))}
    found = [
        (behind[int(rest)], i)
        for i, rest in enumerate(np.cumsum(right[::-1])[::-1] - np.asarray(right))
        if int(rest) in behind
    ]
    return [a for a, _ in found], [b for _, b in found]


def first_shared(teacher: Vocabulary, student: Vocabulary, alignment: Alignment) -> tuple[torch.Tensor, torch.Tensor]:
    """For every token of either model, the shared token that a text which continues with it begins with.

    A shared token is its own class. One that only the student has begins with the first of its pieces in the teacher's
    tokenization, one that only the teacher has with the first in the student's, and so on until a shared one is found.
    Probabilities summed by class can be compared.

    Args:
        teacher: The base's vocabulary.
        student: The transplanted model's.
        alignment: Of the two, with one provenance per row of the student.

    Returns:
        (teacher ids,) and (student ids,) int64: student ids of shared tokens; -1 where there is none.
    """
    n_teacher, n_student = len(teacher), len(alignment.provenance)
    of_teacher, of_student = np.full(n_teacher, -1), np.full(n_student, -1)
    anchors = alignment.anchors
    anchors = anchors[alignment.source[anchors] < n_teacher]
    of_teacher[alignment.source[anchors[::-1]]] = anchors[::-1]  # of several, the first
    of_student[anchors] = of_teacher[alignment.source[anchors]]
    here = [i for i in np.flatnonzero(of_student < 0).tolist() if _is_text(student, i)]
    there = [i for i in np.flatnonzero(of_teacher < 0).tolist() if _is_text(teacher, i)]
    next_here = {i: p[0] for i, p in zip(here, base_pieces(teacher, student, here, n_teacher), strict=True) if p}
    next_there = {i: p[0] for i, p in zip(there, base_pieces(student, teacher, there, n_student), strict=True) if p}
    for token in here:
        of_student[token] = _follow(token, next_here, next_there, of_student, of_teacher)
    for token in there:
        of_teacher[token] = _follow(token, next_there, next_here, of_teacher, of_student)
    return torch.from_numpy(of_teacher), torch.from_numpy(of_student)


def _is_text(vocabulary: Vocabulary, token: int) -> bool:
    key = vocabulary.keys[token] if token < len(vocabulary) else None
    return key is not None and key.is_text and len(key.data) > 0


def _follow(token: int, mine: dict[int, int], theirs: dict[int, int], known: object, other: object) -> int:
    """First piece of the first piece; every step has fewer bytes or lands on a shared token, and 32 are plenty."""
    for _ in range(32):
        if known[token] >= 0:  # type: ignore[index]
            return int(known[token])  # type: ignore[index]
        if token not in mine:
            return -1
        token, mine, theirs, known, other = mine[token], theirs, mine, other, known
    return -1
