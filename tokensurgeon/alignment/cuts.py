"""Count what a donor's tokenizer makes of a base's tokens in a text: tokens alone, no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
        inside: Of the donor's tokens, those behind the first one of a split token: the base never saw them there.
        new_bytes: Of new tokens.
        whole: Bytes of tokens that stand alone on both sides.
        split: Bytes of the base's tokens that the donor cuts into pieces.
        joined: Bytes of the donor's tokens that the base cuts into pieces.
        mixed: Bytes that are cut across.
    """

    n_bytes: int = 0
    base_tokens: int = 0
    tokens: int = 0
    new: int = 0
    inside: int = 0
    new_bytes: int = 0
    whole: int = 0
    split: int = 0
    joined: int = 0
    mixed: int = 0

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
        found: Counter[str] = Counter()
        for piece in pieces:
            ours, theirs = base.encode(piece), donor.encode(piece)
            if not ours or not theirs:
                continue
            lengths = [len(right[i]) for i in theirs]
            new = [n for i, n in zip(theirs, lengths, strict=True) if plan.source[i] < 0]
            found.update(n_bytes=sum(lengths), base_tokens=len(ours), tokens=len(theirs), new=len(new))
            found.update(new_bytes=sum(new))
            meet = meeting_points([left[i] for i in ours], [right[i] for i in theirs])
            for kind, _, these in between_meetings(meet, len(ours), len(theirs)):
                found[kind] += sum(lengths[these])
                if kind == "split":
                    found["inside"] += these.stop - these.start - 1
        return cls(**found)

    def shares(self) -> dict[str, Any]:
        """Plain data: counts, and which share of the donor's tokens is ``shared``, of the text's bytes lies in what."""
        size = max(1, self.n_bytes)
        return {
            "bytes": self.n_bytes,
            "base_tokens": self.base_tokens,
            "tokens": self.tokens,
            "shared": 1 - self.new / max(1, self.tokens),
            "new_bytes": self.new_bytes / size,
            **{kind: getattr(self, kind) / size for kind in KINDS},
        }
