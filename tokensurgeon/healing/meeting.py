"""Find what the next tokens of two tokenizations have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from tokensurgeon.alignment import Ids, RowPlan
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.joins import Joins
from tokensurgeon.healing.splits import Splits, cut_tokens, pieces_of
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.meeting import token_bytes
from tokensurgeon.vocabulary.segmentation import cutter

__all__ = ["Classes", "compared", "first_shared", "numbered"]

_READ = 512
"""Pieces of text that are looked at for what stands for what."""
_OFTEN = 4
"""Times that an id is seen in them before what stands for it is believed."""
_SELDOM = 0.01
"""Share below which a class does not stand for an id."""


def first_shared(
    plan: RowPlan, cuts: Sequence[Sequence[int]], pieces: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every token of either model, the shared token that a text which continues with it begins with.

    A shared token is its own class. One that only the student has begins with the first of its pieces in the teacher's
    tokenization, one that only the teacher has with the first in the student's, and so on until a shared one is found.
    Probabilities summed by class can be compared.

    Args:
        plan: Which of the student's tokens are the teacher's.
        cuts: As `tokensurgeon.healing.splits.cut_tokens` gives them.
        pieces: As `tokensurgeon.healing.splits.pieces_of` gives them.

    Returns:
        (teacher ids,) and (student ids,) int64: student ids of shared tokens; -1 where there is none.
    """
    n_teacher, n_student = len(cuts), plan.n_rows
    of_teacher, of_student = np.full(n_teacher, -1), np.full(n_student, -1)
    anchors = plan.anchors
    anchors = anchors[plan.source[anchors] < n_teacher]
    of_teacher[plan.source[anchors[::-1]]] = anchors[::-1]  # of several, the first
    of_student[anchors] = of_teacher[plan.source[anchors]]
    here = [i for i in np.flatnonzero(of_student < 0).tolist() if pieces[i]]
    there = [i for i in np.flatnonzero(of_teacher < 0).tolist() if cuts[i]]
    next_here, next_there = ({i: side[i][0] for i in some} for side, some in ((pieces, here), (cuts, there)))
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


@dataclass(frozen=True, slots=True)
class Classes:
    """Ids of both models that a text may go on with alike.

    Attributes:
        of_teacher: (teacher rows,) int64, see `first_shared` and `numbered`; -1 for none.
        of_student: (student rows,) int64.
        sorted: (n,) int64, the student's ids by class.
        begin: (classes + 1,) int64, where those of a class begin in ``sorted``.
        stand: (teacher rows + 1,) int64, where what stands for an id of the teacher in text begins in ``to``.
        to: (m,) int64, classes that stand for ids.
        share: (m,) float32, how often each does.
    """

    of_teacher: torch.Tensor
    of_student: torch.Tensor
    sorted: torch.Tensor
    begin: torch.Tensor
    stand: torch.Tensor
    to: torch.Tensor
    share: torch.Tensor

    @classmethod
    def of(cls, teacher: torch.Tensor, student: torch.Tensor, rows: tuple[int, int]) -> Self:
        """Sort ids.

        Args:
            teacher: (teacher's ids,) int64, as `numbered` gives them.
            student: (student's ids,) int64.
            rows: Of the teacher's LM head and the student's, which may have more or fewer than there are ids.
        """
        known = [
            torch.nn.functional.pad(side, (0, max(0, n - len(side))), value=-1)[:n]
            for side, n in zip((teacher, student), rows, strict=True)
        ]
        number = max(0, *(int(side.max()) + 1 for side in known))
        have = torch.nonzero(known[1] >= 0)[:, 0]
        order = have[torch.argsort(known[1][have], stable=True)]
        begin = torch.bincount(known[1][have], minlength=number).cumsum(0)
        each, one = torch.arange(len(known[0]) + 1), torch.ones(len(known[0]))
        return cls(known[0], known[1], order, torch.nn.functional.pad(begin, (1, 0)), each, known[0], one)

    def as_read(self, pieces: Sequence[Piece]) -> Self:
        """With what stands for the teacher's ids in text, where two tokenizers part what they cut alike on its own.

        Before a word some models make four spaces one token, others three, and a word with a space in front. What a
        teacher of the latter believes of three spaces, a student of the former must say of four.

        Args:
            pieces: Text as both read it, of which some is looked at.
        """
        theirs, mine, seen = self.of_teacher.tolist(), self.of_student.tolist(), dict[int, Counter[int]]()
        for token, own in _at_meetings(pieces):
            known = token < len(theirs) and own < len(mine)  # an added token may have no row in the head
            if known and theirs[token] >= 0 and mine[own] >= 0:
                seen.setdefault(token, Counter())[mine[own]] += 1
        seen = {token: counts for token, counts in seen.items() if counts.total() >= _OFTEN}
        begin, to, share = [0], list[int](), list[float]()
        for token, own in enumerate(theirs):
            counts = seen.get(token, Counter({own: 1}))
            kept = {group: n for group, n in counts.items() if n >= _SELDOM * counts.total()}
            to += kept
            share += [n / sum(kept.values()) for n in kept.values()]
            begin.append(len(to))
        return replace(self, stand=torch.tensor(begin), to=torch.tensor(to), share=torch.tensor(share))

    def spread(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What stands for the teacher's ids: index among them, class and share."""
        index, place = _ranges(self.stand, tokens)
        return index, self.to[place], self.share[place]

    @property
    def number(self) -> int:
        """How many."""
        return max(1, len(self.begin) - 1)

    def members(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The student's ids in some classes: index of the class among these, and the id."""
        entry, place = _ranges(self.begin, classes)
        return entry, self.sorted[place]


def _at_meetings(pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """The teacher's next id and the student's, where both have read the same, in some pieces."""
    for number in range(0, len(pieces), -(-len(pieces) // _READ) or 1):
        piece = pieces[number]
        for here, there in piece.meet:
            if here + 1 < len(piece.student) and there + 1 < len(piece.teacher):
                yield piece.teacher[there + 1], piece.student[here + 1]


def _ranges(begin: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of ranges that begin one where another ends: index among those asked for, and all places in them."""
    counts = begin[which + 1] - begin[which]
    index = torch.repeat_interleave(torch.arange(len(which)), counts)
    within = torch.arange(len(index)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return index, begin[which[index]] + within


def _follow(token: int, mine: dict[int, int], theirs: dict[int, int], known: Ids, other: Ids) -> int:
    """First piece of the first piece; every step has fewer bytes or lands on a shared token, and 32 are plenty."""
    for _ in range(32):
        if known[token] >= 0:
            return int(known[token])
        if token not in mine:
            return -1
        token, mine, theirs, known, other = mine[token], theirs, mine, other, known
    return -1


def compared(
    teacher: Vocabulary, student: Vocabulary, plan: RowPlan, rows: tuple[int, int]
) -> tuple[Splits, Classes, Joins]:
    """How the student cuts the teacher's tokens, which ids of both a text may go on with alike, and what it joins.

    Args:
        teacher: The vocabulary of what teaches.
        student: Of what learns.
        plan: Which of the student's tokens are the teacher's.
        rows: Of the teacher's LM head and the student's.
    """
    cuts, pieces = cut_tokens(teacher, student, plan), pieces_of(teacher, student, plan)
    classes = Classes.of(*numbered(*first_shared(plan, cuts, pieces)), rows)
    spelled = token_bytes(teacher), token_bytes(student)
    joins = Joins(pieces[: rows[1]], cuts[: rows[0]], spelled, cutter(student))
    return Splits(cuts[: rows[0]]), classes, joins
