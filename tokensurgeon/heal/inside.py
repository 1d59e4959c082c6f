"""What the teacher says of the student's next token where it has none of its own to compare with.

Where the teacher reads one token and the student several, nothing is comparable between its first and its last byte.
But the teacher's distribution before it, over its own tokens as the student cuts them, tells how likely each piece is
after the pieces read so far: ``P(next | read) = sum of P(T) over T = read + next + … / sum of P(T) over T = read + …``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

__all__ = ["Continuation", "Prefix", "continuations", "inside_of"]

Prefix = tuple[int, ...]
"""Student's ids that a token of the teacher begins with."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """The teacher's tokens that begin with some pieces of the student's.

    Attributes:
        tokens: (n,) int64, teacher's ids.
        classes: (n,) int64, index of the piece that comes next in ``pieces``; their number where the token ends here.
        pieces: (m,) int64, student's ids.
    """

    tokens: torch.Tensor
    classes: torch.Tensor
    pieces: torch.Tensor

    def shares(self, logits: torch.Tensor) -> torch.Tensor:
        """(m + 1,) float32: what the teacher expects next, the last for anything behind a token that ends here.

        Args:
            logits: (teacher rows,) before the token.
        """
        probability = logits[self.tokens.to(logits.device)].float().softmax(dim=0)
        empty = torch.zeros(len(self.pieces) + 1, device=logits.device)
        return empty.index_add(0, self.classes.to(logits.device), probability)


def inside_of(student: Sequence[int], meet: Sequence[tuple[int, int]]) -> list[tuple[int, int, Prefix]]:
    """Positions of the student inside of single tokens of the teacher.

    Args:
        student: Its ids.
        meet: Positions in both at which the same has been read, ascending.

    Returns:
        The student's position, the teacher's before its token, and what the student has read since.
    """
    return [
        (here, there, tuple(student[begin + 1 : here + 1]))
        for (begin, there), (end, behind) in pairwise(meet)
        if behind == there + 1
        for here in range(begin + 1, end)
    ]


def continuations(cut: Mapping[int, Sequence[int]], wanted: Iterable[Prefix]) -> dict[Prefix, Continuation]:
    """For each prefix the tokens that begin with it.

    Args:
        cut: Every token of the teacher with its pieces in the student's tokenization.
        wanted: Prefixes.

    Returns:
        Those of them with which some token begins and goes on.
    """
    found: dict[Prefix, list[tuple[int, int]]] = {prefix: [] for prefix in wanted}
    for token, pieces in cut.items():
        for n in range(1, len(pieces) + 1):
            if (listed := found.get(tuple(pieces[:n]))) is not None:
                listed.append((token, pieces[n] if n < len(pieces) else -1))
    return {prefix: _continuation(listed) for prefix, listed in found.items() if any(n >= 0 for _, n in listed)}


def _continuation(listed: Sequence[tuple[int, int]]) -> Continuation:
    pieces = sorted({piece for _, piece in listed if piece >= 0})
    place = {piece: i for i, piece in enumerate(pieces)}
    return Continuation(
        torch.tensor([token for token, _ in listed]),
        torch.tensor([place.get(piece, len(pieces)) for _, piece in listed]),
        torch.tensor(pieces),
    )
