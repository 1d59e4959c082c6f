"""Know what a student has of several of the base's tokens in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from tokensurgeon.alignment import RowPlan
from tokensurgeon.healing.splits import Path
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["Joined", "Joins", "pieces_of"]

_REMEMBERED = 1 << 18
"""Cuts of a token and what may follow it."""


def pieces_of(teacher: Vocabulary, student: Vocabulary, plan: RowPlan) -> list[list[int]]:
    """The teacher's ids for the bytes of each of the student's tokens.

    Args:
        teacher: The base's vocabulary.
        student: The transplanted model's.
        plan: Which of the student's tokens are the teacher's.

    Returns:
        By the student's id; one id for a shared token, nothing for what is no text or what the teacher cannot spell.
    """
    found: list[list[int]] = [[] for _ in range(plan.n_rows)]
    limit = len(teacher)
    for token in plan.anchors.tolist():
        if plan.source[token] < limit:
            found[token] = [int(plan.source[token])]
    others = [i for i in range(min(len(student), plan.n_rows)) if not found[i] and _is_text(student, i)]
    for token, pieces in zip(others, base_pieces(teacher, student, others, limit), strict=True):
        found[token] = pieces
    return found


@dataclass(frozen=True, slots=True)
class Joined:
    """Tokens of the student that begin with some tokens of the base and go on.

    Attributes:
        alone: The student's id of what they begin with, and no more.
        ids: (n,) int64, ascending.
        next: (n,) int64, the base's id that each goes on with.
    """

    alone: int
    ids: torch.Tensor
    next: torch.Tensor

    def has(self, token: int) -> bool:
        """Whether the student's id is one of them, or what they begin with."""
        return token == self.alone or bool((self.ids == token).any())


class Joins:
    """All of the student's tokens that are several of the base's, by what they begin with."""

    def __init__(
        self,
        pieces: Sequence[Sequence[int]],
        alone: Sequence[Sequence[int]],
        spelled: tuple[Sequence[bytes], Sequence[bytes]],
        cut: Callable[[bytes], list[int] | None],
    ) -> None:
        """Sort the tokens by their beginnings; those that the base spells otherwise are left out.

        Args:
            pieces: By the student's id, see `pieces_of`.
            alone: By the base's id, the student's ids for it.
            spelled: Bytes of the base's ids and of the student's.
            cut: Bytes to the student's ids, as it cuts them within a text; None where that is no text.
        """
        self._cut, (self._theirs, mine) = cut, spelled
        self._pieces: dict[int, Path] = {}
        self._longer: dict[Path, list[int]] = defaultdict(list)
        self._exact: dict[Path, int] = {(token,): cuts[0] for token, cuts in enumerate(alone) if len(cuts) == 1}
        self._known: dict[Path, Joined | None] = {}
        self._first = lru_cache(maxsize=_REMEMBERED)(self._first_of)
        for token, cuts in enumerate(pieces):
            path = tuple(cuts)
            if len(path) < 2 or self._bytes(path) != mine[token]:
                continue
            self._pieces[token] = path
            self._exact.setdefault(path, token)
            for n in range(1, len(path)):
                self._longer[path[:n]].append(token)

    def at(self, path: Path) -> Joined | None:
        """What goes on from some of the base's tokens, where the student has a token for these."""
        if path not in self._known:
            ids, alone = self._longer.get(path), self._exact.get(path)
            found = None
            if ids is not None and alone is not None:
                following = [self._pieces[token][len(path)] for token in ids]
                found = Joined(alone, torch.tensor(ids), torch.tensor(following))
            self._known[path] = found
        return self._known[path]

    def first(self, path: Path, following: int) -> int | None:
        """The student's id that a text of some of the base's tokens, and of one more, begins with.

        None where that is no text. Behind a space comes a letter, since spaces at the end of a text are cut otherwise.
        """
        return self._first(path, following)

    def _first_of(self, path: Path, following: int) -> int | None:
        more = self._bytes((following,))
        if not more:
            return None
        data = self._bytes(path) + more
        cut = self._cut(data + b"x" if data[-1:].isspace() else data)
        return cut[0] if cut else None

    def _bytes(self, path: Path) -> bytes:
        """Nothing for rows of the base's head that are no ids."""
        return b"".join(self._theirs[token] for token in path if token < len(self._theirs))


def _is_text(vocabulary: Vocabulary, token: int) -> bool:
    key = vocabulary.keys[token]
    return key is not None and key.is_text and len(key.data) > 0
