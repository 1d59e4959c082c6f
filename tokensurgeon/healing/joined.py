"""Say what the base believes of the student's tokens that join several of its own.

Of `tokensurgeon.healing.targets`, `next_ids` sums such tokens up with the base's token that they begin with: what comes
behind that the base says only where it has read it. Where the text has it, the base has, so that every occurrence of a
token says how probable all of its joins are there, also those that the text never has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.healing.joins import Joined, Joins
from tokensurgeon.healing.splits import Path
from tokensurgeon.healing.targets import Beliefs, Targets

__all__ = ["joined_tokens"]

_OTHERS = 0.99
"""Probability of other beginnings above which nothing is wanted."""


def joined_tokens(beliefs: Beliefs, ids: Sequence[int], read: Sequence[int], joins: Joins) -> Targets:
    """What is wanted among ids that begin with the base's next token, or its next ones, and may go on.

    The text says what the base reads next, and the base what comes behind that: so, how probable each of the student's
    tokens is that joins both, given that one of them comes. The masses of a position sum to 1.

    Args:
        beliefs: The base's.
        ids: The student's, of the piece.
        read: The base's.
        joins: Tokens of the student that join several.
    """
    found: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for here, there in beliefs.meet:
        path: Path = ()
        while here + 1 < len(ids) and (likely := beliefs.behind(there + len(path) + 1)) is not None:
            path += (read[there + len(path) + 1],)
            at = joins.at(path)
            if at is None or not at.has(ids[here + 1]):
                break
            if (wanted := _among(at, path, likely, joins)) is not None:
                found.append((here, *wanted))
    return Targets.of_sets(found)


def _among(
    at: Joined, path: Path, likely: tuple[list[int], list[float]], joins: Joins
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Ids, what is alone in front; the entry that each counts for; the entries' masses. None if nothing is joined.

    The first entry is what stands alone, with all that nothing is known of. What makes the student begin with another
    token takes no part.
    """
    entry_of: dict[int, int] = {}
    mass, groups, others = [0.0], list[tuple[int, int]](), 0.0
    for following, probability in zip(*likely, strict=True):
        token = joins.first(path, following)
        if token is None or token == at.alone:
            continue
        if not at.has(token):
            others += probability
            continue
        if token not in entry_of:
            entry_of[token] = len(mass)
            mass.append(0.0)
        mass[entry_of[token]] += probability
        groups.append((following, entry_of[token]))
    if not groups or others > _OTHERS:
        return None
    entry = torch.zeros(len(at.ids), dtype=torch.int64)
    for following, number in groups:
        entry[at.next == following] = number
    for token, number in entry_of.items():
        entry[at.ids == token] = number
    mass[0] = max(0.0, 1 - others - sum(mass))
    every = torch.cat([torch.tensor([at.alone]), at.ids])
    return every, torch.nn.functional.pad(entry, (1, 0)), torch.tensor(mass) / sum(mass)
