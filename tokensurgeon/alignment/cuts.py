"""Count what a donor's tokenizer makes of a base's tokens in a text: tokens alone, no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tokensurgeon.alignment.plan import RowPlan
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.meeting import KINDS, between_meetings, meeting_points, token_bytes

__all__ = ["Cuts"]


@dataclass(frozen=True, slots=True)
class Cuts:
    """A text as two tokenizers cut it, between the places at which they meet.

    Attributes:
        n_bytes: Of the text, in the donor's tokens.
        base_tokens: Of the base, in all.
        tokens: Of the donor, in all.
        new: Of these, tokens that the base has not.
        new_bytes: Of new tokens.
        places: What stands between two meetings, by `KINDS`: tokens that both have, tokens of the base that the donor
            splits, ones that it joins, and what is cut across.
        inside: Bytes of these places.
    """

    n_bytes: int
    base_tokens: int
    tokens: int
    new: int
    new_bytes: int
    places: Mapping[str, int]
    inside: Mapping[str, int]

    @classmethod
    def of(cls, base: Vocabulary, donor: Vocabulary, plan: RowPlan, pieces: Iterable[str]) -> Self:
        """Cut text both ways.

        Args:
            base: Its vocabulary.
            donor: Its vocabulary.
            plan: The alignment's, which says what both have.
            pieces: Text, each cut on its own.
        """
        left, right = token_bytes(base), token_bytes(donor)
        n_bytes = base_tokens = tokens = new = new_bytes = 0
        places, inside = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        for piece in pieces:
            ours, theirs = base.encode(piece), donor.encode(piece)
            if not ours or not theirs:
                continue
            lengths = [len(right[i]) for i in theirs]
            unknown = [n for i, n in zip(theirs, lengths, strict=True) if plan.source[i] < 0]
            n_bytes, base_tokens, tokens = n_bytes + sum(lengths), base_tokens + len(ours), tokens + len(theirs)
            new, new_bytes = new + len(unknown), new_bytes + sum(unknown)
            meet = meeting_points([left[i] for i in ours], [right[i] for i in theirs])
            for kind, _, these in between_meetings(meet, len(ours), len(theirs)):
                places[kind] += 1
                inside[kind] += sum(lengths[these])
        return cls(n_bytes, base_tokens, tokens, new, new_bytes, places, inside)

    @property
    def changed(self) -> int:
        """Places that the donor does not cut as the base does."""
        return sum(self.places.values()) - self.places["whole"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data: the attributes, and shares of the donor's tokens (``shared``) and of the text's bytes."""
        size = max(1, self.n_bytes)
        shares = {kind: self.inside[kind] / size for kind in KINDS}
        return {
            "bytes": self.n_bytes,
            "base_tokens": self.base_tokens,
            "tokens": self.tokens,
            "places": dict(self.places),
            "shared": 1 - self.new / max(1, self.tokens),
            "of_bytes": shares | {"new": self.new_bytes / size},
        }
