"""Say where every row of the new vocabulary comes from, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Self

import numpy as np

__all__ = ["Alignment", "Blend", "Ids", "Provenance", "RowPlan"]

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Provenance(IntEnum):
    """Why a row of the output is what it is."""

    COPIED = 0
    """The base has a canonical token with the same bytes: its row, bit for bit."""
    ROLE = 1
    """A control token; the base's tokens with the same role, or with the same literal text."""
    OVERRIDE = 2
    """The user said which base text it stands for."""
    RECONSTRUCTED = 3
    """Written as a combination of anchors."""
    UNREACHABLE = 4
    """The tokenizer never emits it: the row must take no probability."""
    PADDING = 5
    """No token has this id, or the donor has no row for it: the row must take no probability."""

    RESTORED = 6
    """The base's own row, after a transplant had dropped it (`tokensurgeon.surgery.revert`)."""
    TRAINED = 7
    """Made for the output, and then trained there, as `heal` and `draft` do."""

    @property
    def label(self) -> str:
        """Lower-case name, as in reports and options."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """Where every row of the output comes from.

    Attributes:
        provenance: (n_rows,) int8, values of `Provenance`.
        source: (n_rows,) int64, the base id whose row is copied, otherwise -1. COPIED rows have one; ROLE rows, unless
            they are a `Blend`; UNREACHABLE and PADDING rows, where the base has the same dead row.

    Example:
        >>> RowPlan.kept([7, 2]).source.tolist()
        [7, 2]
        >>> RowPlan.grown(3, [3, 4], multiple=8).counts()["padding"]
        3
    """

    provenance: np.ndarray[Any, np.dtype[np.int8]]
    source: Ids

    @classmethod
    def kept(cls, ids: Sequence[int], n_rows: int | None = None) -> RowPlan:
        """Rows of the base: row ``i`` is its row ``ids[i]``, and what comes after them is padding.

        Args:
            ids: Base ids.
            n_rows: Rows of the output; by default as many as ids.
        """
        n_rows = len(ids) if n_rows is None else n_rows
        source: Ids = np.full(n_rows, -1, dtype=np.int64)
        source[: len(ids)] = ids
        return cls(np.where(source >= 0, Provenance.COPIED, Provenance.PADDING).astype(np.int8), source)

    @classmethod
    def grown(cls, n_old: int, new: Sequence[int] | Ids, multiple: int = 1) -> RowPlan:
        """A larger vocabulary: the base's rows in their places, but where a new token takes one, then padding.

        Args:
            n_old: Rows of the base.
            new: Ids (ascending) of the tokens to reconstruct.
            multiple: The number of rows is rounded up to a multiple of this.
        """
        n_rows = max(n_old, int(new[-1]) + 1 if len(new) else 0)
        n_rows += -n_rows % multiple
        return cls.kept(range(n_old), n_rows).changed(Provenance.RECONSTRUCTED, new)

    def reverted(self, n_base: int) -> RowPlan:
        """Provenance of the base's rows, made again from this output.

        Of several copies of one row, a text token's counts, and of those the first.

        Args:
            n_base: Rows of the base.

        Example:
            >>> RowPlan.kept([2, 0]).reverted(3).source.tolist()
            [1, -1, 0]
        """
        source: Ids = np.full(n_base, -1, dtype=np.int64)
        copied = self.copied[::-1]
        for kind in (Provenance.PADDING, Provenance.UNREACHABLE, Provenance.ROLE, Provenance.COPIED):
            ids = copied[self.provenance[copied] == kind]
            source[self.source[ids]] = ids
        return RowPlan(np.where(source >= 0, Provenance.COPIED, Provenance.RESTORED).astype(np.int8), source)

    def changed(self, provenance: Provenance, ids: Sequence[int] | Ids) -> RowPlan:
        """The plan with another provenance of some rows, none of which is copied then."""
        kinds, source = self.provenance.copy(), self.source.copy()
        kinds[ids], source[ids] = provenance, -1
        return RowPlan(kinds, source)

    def trained(self, ids: Sequence[int] | Ids) -> RowPlan:
        """The plan after some rows were trained: those that were made are TRAINED now.

        A row of the base stays what it was, and so does one that takes no probability.

        Args:
            ids: Of the output.

        Example:
            >>> RowPlan.grown(2, [2, 3]).trained([0, 2]).provenance.tolist()
            [0, 0, 7, 3]
        """
        made = np.isin(self.provenance, (Provenance.RECONSTRUCTED, Provenance.OVERRIDE, Provenance.ROLE))
        given: Ids = np.array(ids, dtype=np.int64)
        return self.changed(Provenance.TRAINED, given[made[given] & (self.source[given] < 0)])

    @property
    def n_rows(self) -> int:
        """Rows of the output's vocabulary tensors."""
        return len(self.provenance)

    @property
    def anchors(self) -> Ids:
        """Output ids (ascending) of live tokens that the base has too: rows known on both sides."""
        dead = np.isin(self.provenance, (Provenance.UNREACHABLE, Provenance.PADDING))
        return np.flatnonzero((self.source >= 0) & ~dead)

    @property
    def copied(self) -> Ids:
        """Output ids (ascending) that have a row of the base, dead ones included."""
        return np.flatnonzero(self.source >= 0)

    @property
    def silenced(self) -> Ids:
        """Output ids (ascending) whose rows are made to take no probability."""
        return np.setdiff1d(self.ids(Provenance.UNREACHABLE, Provenance.PADDING), self.copied)

    def ids(self, *provenances: Provenance) -> Ids:
        """Output ids (ascending) with one of these provenances."""
        return np.flatnonzero(np.isin(self.provenance, provenances))

    def counts(self) -> dict[str, int]:
        """Rows per provenance, every label present; RESTORED and TRAINED only where there are such rows."""
        found, seldom = Counter(self.provenance.tolist()), (Provenance.RESTORED, Provenance.TRAINED)
        return {p.label: found[p] for p in Provenance if found[p] or p not in seldom}


@dataclass(frozen=True, slots=True)
class Blend:
    """Base ids whose mean row a token takes.

    Attributes:
        input: For the input embedding.
        head: For the LM head.
        tied: Where both are one matrix; by default all of both.

    Example:
        >>> Blend((2, 105), (105,)).ids
        (2, 105)
    """

    input: tuple[int, ...]
    head: tuple[int, ...]
    tied: tuple[int, ...] = ()

    @classmethod
    def of(cls, token_id: int) -> Self:
        """A single base token's row."""
        return cls((token_id,), (token_id,))

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.input, *self.head)))

    @property
    def both(self) -> tuple[int, ...]:
        """For a matrix that is input embedding and LM head."""
        return self.tied or self.ids


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """What two vocabularies have in common.

    Attributes:
        plan: Where every row of the output comes from.
        overrides: Output id to the base ids of the text that the user gave for it.
        unmapped: Control tokens of the donor for which the base has no counterpart.
        roles: Output id of a control token to the several base tokens that together stand for it.
        beginning: Output id that stands at the start of a text in the place of the base's BOS, where the donor's texts
            begin without one of their own.
        foreign: Turn markers of the donor that do not stand for turns as the base was trained on.
    """

    plan: RowPlan
    overrides: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    unmapped: tuple[int, ...] = ()
    roles: Mapping[int, Blend] = field(default_factory=dict)
    beginning: int | None = None
    foreign: tuple[int, ...] = ()

    @property
    def blends(self) -> dict[int, Blend]:
        """Output id to the base ids whose mean it takes: a text's last token is read, its first predicted."""
        return {**self.roles, **{i: Blend(ids[-1:], ids[:1]) for i, ids in self.overrides.items()}}
