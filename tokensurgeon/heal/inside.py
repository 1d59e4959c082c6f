"""What the teacher says of the student's next piece inside of its own tokens.

Where the teacher reads one token and the student several, nothing is comparable between its first and its last byte.
But the teacher's distribution before it, over its own tokens as the student cuts them, tells how likely each piece is
after the pieces read so far: ``P(next | read) = sum of P(T) over T = read + next + … / sum of P(T) over T = read + …``.

Tokens that end at ``read`` make up a class of their own, anything else: what comes behind them the teacher does not
say, and it is taken not to be one of the pieces with which others go on. Tokens shorter than ``read`` are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch

__all__ = ["NextPieces", "inside_of"]

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class NextPieces:
    """For some beginnings, the teacher's tokens that begin so, and which of the student's pieces comes next in them.

    Attributes:
        tokens: (n,) int64, teacher's ids, those of one beginning behind those of the other.
        classes: (n,) int64, which of the beginning's pieces comes next; -1 where the token ends.
        token_starts: (beginnings + 1,) int64, where each one's tokens are.
        pieces: (m,) int64, student's ids.
        piece_starts: (beginnings + 1,) int64, where each one's pieces are.
    """

    tokens: torch.Tensor
    classes: torch.Tensor
    token_starts: torch.Tensor
    pieces: torch.Tensor
    piece_starts: torch.Tensor

    @classmethod
    def of(cls, cut: Mapping[int, Sequence[int]], beginnings: Collection[tuple[int, ...]]) -> NextPieces:
        """From the teacher's tokens as the student cuts them, in the order of ``beginnings``."""
        found: dict[tuple[int, ...], list[tuple[int, int]]] = {beginning: [] for beginning in beginnings}
        for token, pieces in cut.items():
            for n in range(1, len(pieces) + 1):
                if (listed := found.get(tuple(pieces[:n]))) is not None:
                    listed.append((token, pieces[n] if n < len(pieces) else -1))
        following = [sorted({piece for _, piece in listed if piece >= 0}) for listed in found.values()]
        places = [{piece: i for i, piece in enumerate(some)} | {-1: -1} for some in following]
        return cls(
            torch.tensor([token for listed in found.values() for token, _ in listed], dtype=torch.int64),
            torch.tensor(
                [place[piece] for place, listed in zip(places, found.values(), strict=True) for _, piece in listed],
                dtype=torch.int64,
            ),
            _starts([len(listed) for listed in found.values()]),
            torch.tensor([piece for some in following for piece in some], dtype=torch.int64),
            _starts([len(some) for some in following]),
        )

    def to(self, device: torch.device) -> NextPieces:
        """On a device."""
        return NextPieces(*(getattr(self, field.name).to(device) for field in fields(self)))

    def apart(self, which: torch.Tensor, mine: torch.Tensor, theirs: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Divergence of what the student expects next from what the teacher says.

        Args:
            which: (positions,) int64, the beginning that has been read.
            mine: (positions, student rows) logits.
            theirs: (asked, teacher rows) logits before tokens.
            row: (positions,) int64, which of ``theirs``.

        Returns:
            (positions,) float32.
        """
        token_of, at = _members(self.token_starts, which)
        owner, place = _members(self.piece_starts, which)
        largest = theirs.amax(dim=1)  # only ratios matter
        weight = (theirs[row[token_of], self.tokens[at]] - largest[row[token_of]]).float().exp()
        empty = torch.zeros(len(which), device=mine.device)
        total = empty.index_add(0, token_of, weight).clamp(min=torch.finfo(torch.float32).tiny)
        goes_on, counts = self.classes[at] >= 0, torch.bincount(owner, minlength=len(which))
        slot = ((counts.cumsum(0) - counts)[token_of] + self.classes[at])[goes_on]
        share = torch.zeros(len(owner), device=mine.device).index_add(0, slot, weight[goes_on]) / total[owner]
        ended = empty.index_add(0, token_of[~goes_on], weight[~goes_on]) / total
        own, taken = mine.float(), (owner, self.pieces[place])
        everything = own.logsumexp(dim=1)
        rest = own.index_put(taken, torch.tensor(-torch.inf, device=mine.device)).logsumexp(dim=1) - everything
        listed = share * ((share + _TINY).log() - (own[taken] - everything[owner]))
        return empty.index_add(0, owner, listed) + ended * ((ended + _TINY).log() - rest)


def inside_of(
    student: Sequence[int], teacher: Sequence[int], meet: Sequence[tuple[int, int]], cut: Mapping[int, Sequence[int]]
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Positions of the student inside of tokens of the teacher.

    Args:
        student: Its ids.
        teacher: Its ids.
        meet: Positions in both at which the same has been read, ascending.
        cut: The teacher's tokens as the student cuts them.

    Returns:
        The student's position, the teacher's before its token, and what the student has read of that token; only where
        it reads the token, in this text, as it cuts it.
    """
    found = []
    for (begin, before), (end, _) in pairwise(meet):
        pieces = tuple(cut.get(teacher[before + 1], ()))
        for here in range(begin + 1, end):
            read = tuple(student[begin + 1 : here + 2])
            if len(read) > len(pieces) or read != pieces[: len(read)]:
                break
            found.append((here, before, read[:-1]))
    return found


def _starts(counts: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *counts], dtype=torch.int64).cumsum(0)


def _members(starts: torch.Tensor, which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whose member, as an index into ``which``, and where it is."""
    counts = starts[which + 1] - starts[which]
    owner = torch.repeat_interleave(torch.arange(len(which), device=which.device), counts)
    within = torch.arange(len(owner), device=which.device) - (counts.cumsum(0) - counts)[owner]
    return owner, starts[which][owner] + within
