"""Say which rows of the base a control token of the donor takes: by its literal, then by what it is for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

from tokensurgeon.alignment.plan import Blend
from tokensurgeon.vocabulary import Role, Vocabulary
from tokensurgeon.vocabulary.token import NEVER_PREDICTED, STRUCTURE, TURNS

__all__ = ["ControlTokens"]


@dataclass(frozen=True)
class ControlTokens:
    """Two vocabularies' control tokens.

    The rules, in this order:

    1. A literal that both have, with the same function or with one that only one of both shows.
    2. The same role; what a conversation is made of before the ends of a document. Tokens that the base never trained
       do not count.
    3. What comes nearest: a turn's end is a document's end, an opener that the base writes as several tokens is the
       mean of their rows, a base without BOS separates documents by their end.
    4. Where the base reads BOS before every text and the donor's texts begin with a turn marker, that marker's input
       row holds BOS too.

    Attributes:
        base: Of the model that keeps its body.
        donor: Of the model that gives the tokenizer.
        limit: Base ids from here on have no row.
        untrained: Base ids of control tokens that training never saw; they count by their literal only.
    """

    base: Vocabulary
    donor: Vocabulary
    limit: int
    untrained: AbstractSet[int] = field(default_factory=frozenset)

    def counterpart(self, token_id: int) -> Blend | None:
        """The base's rows that stand for a control token of the donor; None where none does."""
        found = self._by_literal(token_id) or self._by_role(token_id)
        return self._beginning(token_id, found)

    @property
    def beginning(self) -> int | None:
        """The donor's token that holds the base's BOS, where the donor's texts begin without one of their own."""
        return next((i for i in self._openers if self.donor.canonical[i]), None)

    @cached_property
    def turns(self) -> frozenset[int]:
        """What the base's own turns are made of, as far as it was trained on them."""
        roles = self.base.roles
        written = roles.of(*TURNS).union(*roles.openers.values())
        marked = roles.of(*TURNS) - self.untrained
        return (
            frozenset(written - self.untrained) if marked or (roles.openers and not roles.of(*TURNS)) else frozenset()
        )

    @cached_property
    def _literals(self) -> dict[bytes, int]:
        return self.base.literal_ids(self.limit)

    def _by_literal(self, token_id: int) -> Blend | None:
        match = self._literals.get(str(self.donor.pieces[token_id]).encode())
        if match is None or not self.base.canonical[match]:
            return None
        mine, theirs = set(self.donor.roles_of(token_id)), set(self.base.roles_of(match))
        if self._is_text(match) and mine & (STRUCTURE | NEVER_PREDICTED):
            return None  # Gemma's ``<s>`` is a tag of HTML
        if theirs and theirs <= NEVER_PREDICTED:
            return Blend.of(match) if mine and mine <= theirs else None
        if mine & STRUCTURE and theirs & STRUCTURE and not mine & theirs & STRUCTURE:
            return None
        if mine and mine <= NEVER_PREDICTED and theirs:
            return None  # a second copy of the base's EOS would take half of its probability
        return Blend.of(match)

    def text(self, data: bytes) -> int | None:
        """The base's added token with the literal text of one of the donor's that is no control token."""
        match = self._literals.get(data)
        sure = match is None or self._is_text(match) or not self.base.roles.of(*STRUCTURE, *NEVER_PREDICTED) & {match}
        return match if sure else None

    def _is_text(self, token_id: int) -> bool:
        key = self.base.keys[token_id]
        return key is not None and key.is_text

    def _by_role(self, token_id: int) -> Blend | None:
        mine = self.donor.roles_of(token_id)
        if Role.BOS in mine and Role.EOS in mine and not TURNS & set(mine):
            first, last = self._one(Role.BOS), self._one(Role.EOS)
            if first is not None and last is not None and first != last and first not in self.base.roles.of(*TURNS):
                # read at the start of a text, predicted at its end; one row for both can leave the end to a turn's
                ends = self.donor.roles.of(Role.TURN_END) - {token_id}
                return Blend((first,), (last,), (first,) if ends else ())
        if TURNS & set(mine):  # no BOS in the midst of a text because a config calls a turn marker so
            mine = [role for role in mine if role is not Role.BOS]
        for role in mine:
            if found := self._for(role):
                return found
        return None

    def _for(self, role: Role) -> Blend | None:
        one = self._one(role)
        if one is not None:
            single = role not in NEVER_PREDICTED or self.base.roles_of(one) == [role]
            return Blend.of(one) if single else None
        if role is Role.TURN_START:
            return _mean([i for i in (self._one(Role.USER), self._one(Role.ASSISTANT)) if i is not None])
        if role in (Role.USER, Role.ASSISTANT, Role.SYSTEM):
            opener = self.base.roles.openers.get(role, ())
            named = opener[1:] if self.donor.roles.of(Role.TURN_START) and len(opener) > 2 else opener
            return self._several(named)
        if role is Role.HEADER_END:
            opener = self.base.roles.openers.get(Role.USER, ())
            return self._several((*opener[:1], *opener[-1:]))
        other = {Role.TURN_END: Role.EOS, Role.EOS: Role.TURN_END, Role.BOS: Role.EOS}.get(role)
        nearest = None if other is None else self._one(other)
        return None if nearest is None else Blend.of(nearest)

    def _one(self, role: Role) -> int | None:
        """The base's token for a role."""
        ids = [i for i in self.base.roles.ids.get(role, ()) if i < self.limit and self.base.canonical[i]]
        if role not in NEVER_PREDICTED:
            ids = [i for i in ids if i not in self.untrained]
        return ids[0] if ids else None

    def _several(self, ids: tuple[int, ...]) -> Blend | None:
        """The mean of the rows of what the base's turns open with; a single token of text would be that text twice."""
        known = {i for i in ids if i < self.limit and i in self.turns}
        return _mean([i for i in ids if i in known]) if len(known) > 1 else None

    @cached_property
    def _openers(self) -> tuple[int, ...]:
        """The donor's tokens that texts begin with in the place of the BOS that the base reads."""
        prefix, roles = self.base.roles.prefix, self.donor.roles
        own = roles.of(Role.BOS) - roles.of(*TURNS)
        if prefix is None or prefix >= self.limit or roles.prefix is not None or own & {*roles.starts}:
            return ()
        return roles.starts

    def _beginning(self, token_id: int, found: Blend | None) -> Blend | None:
        prefix = self.base.roles.prefix
        if prefix is None or token_id not in self._openers:
            return found
        if found is None or found.ids == (prefix,) or self.untrained & {*found.ids}:
            return Blend.of(prefix)
        return Blend(tuple(dict.fromkeys((prefix, *found.input))), found.head)


def _mean(ids: list[int]) -> Blend | None:
    chosen = tuple(dict.fromkeys(ids))
    return Blend(chosen, chosen) if chosen else None
