"""Find what the next tokens of two tokenizations have in common."""

from __future__ import annotations

import numpy as np
import torch

from tokensurgeon.alignment import Ids, RowPlan
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["first_shared", "numbered"]


def first_shared(teacher: Vocabulary, student: Vocabulary, plan: RowPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """For every token of either model, the shared token that a text which continues with it begins with.

    A shared token is its own class. One that only the student has begins with the first of its pieces in the teacher's
    tokenization, one that only the teacher has with the first in the student's, and so on until a shared one is found.
    Probabilities summed by class can be compared.

    Args:
        teacher: The base's vocabulary.
        student: The transplanted model's.
        plan: Which of the student's tokens are the teacher's.

    Returns:
        (teacher ids,) and (student ids,) int64: student ids of shared tokens; -1 where there is none.
    """
    n_teacher, n_student = len(teacher), plan.n_rows
    of_teacher, of_student = np.full(n_teacher, -1), np.full(n_student, -1)
    anchors = plan.anchors
    anchors = anchors[plan.source[anchors] < n_teacher]
    of_teacher[plan.source[anchors[::-1]]] = anchors[::-1]  # of several, the first
    of_student[anchors] = of_teacher[plan.source[anchors]]
    here = [i for i in np.flatnonzero(of_student < 0).tolist() if _is_text(student, i)]
    there = [i for i in np.flatnonzero(of_teacher < 0).tolist() if _is_text(teacher, i)]
    next_here = {i: p[0] for i, p in zip(here, base_pieces(teacher, student, here, n_teacher), strict=True) if p}
    next_there = {i: p[0] for i, p in zip(there, base_pieces(student, teacher, there, n_student), strict=True) if p}
    for token in here:
        of_student[token] = _follow(token, next_here, next_there, of_student, of_teacher)
    for token in there:
        of_teacher[token] = _follow(token, next_there, next_here, of_teacher, of_student)
    return torch.from_numpy(of_teacher), torch.from_numpy(of_student)


def numbered(teacher: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes of `first_shared`, numbered from 0 instead of by student ids, most of which are no class.

    Args:
        teacher: (teacher ids,) int64.
        student: (student ids,) int64.

    Returns:
        Both, with numbers of the classes that the teacher's tokens have, in order; -1 elsewhere.
    """
    known = torch.from_numpy(np.unique(teacher[teacher >= 0]))
    numbers = torch.full((int(max(teacher.max(), student.max())) + 2,), -1)  # the last one is what -1 finds
    numbers[known] = torch.arange(len(known))
    return numbers[teacher], numbers[student]


def _is_text(vocabulary: Vocabulary, token: int) -> bool:
    key = vocabulary.keys[token] if token < len(vocabulary) else None
    return key is not None and key.is_text and len(key.data) > 0


def _follow(token: int, mine: dict[int, int], theirs: dict[int, int], known: Ids, other: Ids) -> int:
    """First piece of the first piece; every step has fewer bytes or lands on a shared token, and 32 are plenty."""
    for _ in range(32):
        if known[token] >= 0:
            return int(known[token])
        if token not in mine:
            return -1
        token, mine, theirs, known, other = mine[token], theirs, mine, other, known
    return -1
