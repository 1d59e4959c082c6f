"""Know what a student has of several of the base's tokens in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from tokensurgeon.healing.splits import Path, Splits

__all__ = ["Joined", "Joins"]

_REMEMBERED = 1 << 18
"""Cuts of a token and what may follow it."""


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
        """Keep them.

        Args:
            pieces: By the student's id, see `tokensurgeon.healing.splits.pieces_of`.
            alone: By the base's id, the student's ids for it.
            spelled: Bytes of the base's ids and of the student's.
            cut: Bytes to the student's ids, as it cuts them within a text; None where that is no text.
        """
        self._pieces, self._alone, self._cut = pieces, alone, cut
        self._theirs, self._mine = spelled
        self._first = lru_cache(maxsize=_REMEMBERED)(self._first_of)

    @cached_property
    def _beginnings(self) -> Splits:
        """With the roles changed; tokens that the base spells otherwise are left out. Made when first asked for."""
        each = zip(self._pieces, self._mine, strict=False)  # rows may be more than ids
        return Splits([cut if len(cut) > 1 and self._bytes(cut) == mine else [] for cut, mine in each])

    def at(self, path: Path) -> Joined | None:
        """What goes on from some of the base's tokens, where the student has a token for these."""
        found = self._beginnings.at(path)
        if found is None:
            return None
        one = self._alone[path[0]] if path[0] < len(self._alone) else []
        alone = found.ended.tolist() if len(path) > 1 else [*one] if len(one) == 1 else []
        return Joined(alone[0], found.longer, found.token[found.index]) if alone else None

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

    def _bytes(self, path: Sequence[int]) -> bytes:
        """Nothing for rows of the base's head that are no ids."""
        return b"".join(self._theirs[token] for token in path if token < len(self._theirs))
