"""Find where two tokenizations of one text meet, and what their next tokens have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tokensurgeon.alignment import Ids, RowPlan
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["first_shared", "meeting_points", "numbered", "token_bytes"]


def token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """The text that each id stands for; nothing for control tokens and holes."""
    return [key.data if key is not None and key.is_text else b"" for key in vocabulary.keys]


def meeting_points(left: Sequence[bytes], right: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Positions in two tokenizations at which the same bytes have been read, or the same are still to come.

    Some tokenizers put a space before the text, drop line breaks or case, or read ``</s>`` as a control token. So only
    what both spell alike from the text's beginning, or up to its end, is gone by.

    Args:
        left: Bytes of each token.
        right: Those of the other tokenization of the same text.

    Returns:
        Indices of the last tokens read, in step.
    """
    begins = _common(b"".join(left), b"".join(right))
    ends = _common(b"".join(left)[::-1], b"".join(right)[::-1])
    found: dict[int, int] = {}
    for behind, limit in ((False, begins), (True, ends)):
        a, b = _places(left, behind, limit), _places(right, behind, limit)
        found |= {a[n]: b[n] for n in a.keys() & b.keys()}
    pairs = sorted(found.items())
    return [x for x, _ in pairs], [y for _, y in pairs]


def _places(tokens: Sequence[bytes], behind: bool, limit: int) -> dict[int, int]:
    """Token by the bytes read with it, or by those behind it. Of tokens without bytes, the ones nearest to the text."""
    ends = np.cumsum([len(token) for token in tokens])
    counts = [int(n) for n in (ends[-1] - ends if behind else ends)]
    order = range(len(tokens)) if behind else reversed(range(len(tokens)))
    return {counts[i]: i for i in order if counts[i] <= limit and (behind or counts[i])}


def _common(a: bytes, b: bytes) -> int:
    """Bytes that two texts begin with both."""
    n = min(len(a), len(b))
    x, y = (np.frombuffer(t, np.uint8, n) for t in (a, b))
    other = np.flatnonzero(x != y)
    return int(other[0]) if len(other) else n


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
