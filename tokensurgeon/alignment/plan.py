"""Where every row of the new vocabulary comes from, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

__all__ = ["Alignment", "Ids", "Provenance"]

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Provenance(IntEnum):
    """Why a row of the output is what it is."""

    COPIED = 0
    """The base has a canonical token with the same bytes: its row, bit for bit."""
    ROLE = 1
    """A control token; the base's token with the same role, or with the same literal text."""
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

    @property
    def label(self) -> str:
        """Lower-case name, as in reports and options."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Alignment:
    """The plan for every row of the output.

    Attributes:
        provenance: (n_rows,) int8, values of `Provenance`.
        source: (n_rows,) int64, the base id whose row is copied (COPIED, ROLE), otherwise -1.
        overrides: Output id to the base ids of the text that the user gave for it.
        unmapped: Control tokens of the donor for which the base has no counterpart.
    """

    provenance: np.ndarray[Any, np.dtype[np.int8]]
    source: Ids
    overrides: Mapping[int, tuple[int, ...]]
    unmapped: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the output's vocabulary tensors."""
        return len(self.provenance)

    @property
    def anchors(self) -> Ids:
        """Donor ids (ascending) whose token the base has too: rows known on both sides."""
        return np.flatnonzero(self.source >= 0)

    def ids(self, *provenances: Provenance) -> Ids:
        """Output ids (ascending) with one of these provenances."""
        return np.flatnonzero(np.isin(self.provenance, provenances))

    def counts(self) -> dict[str, int]:
        """Rows per provenance, every label present; RESTORED only where there are such rows."""
        found = Counter(self.provenance.tolist())
        return {p.label: found[p] for p in Provenance if found[p] or p is not Provenance.RESTORED}
