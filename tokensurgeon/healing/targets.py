"""Turn the base's next-token distributions into what the student should predict, at every place exactly.

A student that has read some bytes does not know how the base would have cut them: up to a meeting as the text is, or as
the beginning of a longer token that began before. Each of these ways has a probability, the base's own, and each says
what follows: behind a meeting the base's distribution, a token giving its mass to the student's first id of it, or to
what stands there in text instead (`tokensurgeon.healing.meeting.Classes.as_read`); inside of a token the next id of
every token that goes on so. What the student should predict is the mixture (marginalisation over byte prefixes). To
teach the base's distribution alone at meetings would teach that no token goes on there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from tokensurgeon.evaluation.logits import log_normaliser
from tokensurgeon.healing.meeting import Classes
from tokensurgeon.healing.splits import Inside, Path, Splits

__all__ = [
    "UNLIKELY",
    "Beliefs",
    "Likely",
    "MassOf",
    "Targets",
    "behind_branches",
    "inside_of_tokens",
    "next_ids",
]

UNLIKELY = 1e-5
"""Probability below which a token is left to the rest."""
_LEAST = 1e-12
"""Probability of ways to read what was read below which nothing can be said about what follows."""
_FOLLOWS = 1e-3
"""Probability of what follows a token below which it is not asked what it is joined with."""
_KEPT = 1e-4
"""Share of an id among what may follow below which it is left to the rest."""
_TIMES = 80.0
"""Logarithm of the ratio of two probabilities above which float32 has no room for more of them."""
_FLAT = 1e-6
"""Probability of all else below which a divergence gives no more gradient."""

Likely = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(n,) rows, (n,) tokens and (n,) probabilities."""
MassOf = Callable[[int, torch.Tensor], torch.Tensor]
"""From a row and (k,) int64 ids to (k,) probabilities, on the CPU."""
Behind = Callable[[int], tuple[list[int], list[float]] | None]
"""From a position of the base to ids that may follow it, and their probabilities; None where nothing is known."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is wanted at some positions: probabilities of sets of ids; what they leave is that of all other ids.

    Attributes:
        place: (n,) int64, the student's positions.
        row: (m,) int64, index of the position that an entry is of.
        mass: (m,) float32, the entry's probability.
        entry: (k,) int64, index of the entry that an id counts for.
        token: (k,) int64, the id.
    """

    place: torch.Tensor
    row: torch.Tensor
    mass: torch.Tensor
    entry: torch.Tensor
    token: torch.Tensor

    @classmethod
    def of_ids(cls, found: Iterable[tuple[int, torch.Tensor, torch.Tensor]]) -> Targets:
        """From (position, ids, their probabilities), every id on its own."""
        return cls.of_sets((place, token, torch.arange(len(token)), mass) for place, token, mass in found)

    @classmethod
    def of_sets(cls, found: Iterable[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]) -> Targets:
        """From (position, ids, the set that each is in, the sets' probabilities)."""
        places, entries = list[int](), 0
        whole, share = torch.int64, torch.float32
        rows, masses, entry, tokens = ([torch.empty(0, dtype=dtype)] for dtype in (whole, share, whole, whole))
        for row, (place, token, of, mass) in enumerate(found):
            places.append(place)
            rows.append(torch.full((len(mass),), row))
            masses.append(mass)
            entry.append(of + entries)
            tokens.append(token)
            entries += len(mass)
        each = (torch.cat(parts) for parts in (rows, masses, entry, tokens))
        return cls(torch.tensor(places, dtype=torch.int64), *each)

    @property
    def at(self) -> torch.Tensor:
        """(k,) int64, the position of every id."""
        return self.place[self.row[self.entry]]

    def divergence(self, logs: torch.Tensor) -> torch.Tensor:
        """Of what is wanted from what is predicted, by position.

        Args:
            logs: (k,) log-probabilities of the ids.
        """
        empty, none = torch.zeros_like(self.mass), torch.zeros(len(self.place), device=logs.device)
        got = empty.index_add(0, self.entry, logs.exp())
        apart = torch.xlogy(self.mass, self.mass) - self.mass * got.clamp(min=_LEAST).log()
        rest = (1 - none.index_add(0, self.row, self.mass)).clamp(min=0)  # a sum may round above 1
        other = (1 - none.index_add(0, self.row, got)).clamp(min=_FLAT)
        return none.index_add(0, self.row, apart) + torch.xlogy(rest, rest) - rest * other.log()

    def divergence_within(self, logs: torch.Tensor) -> torch.Tensor:
        """The same among the ids that are asked for alone: a position's masses sum to 1.

        Args:
            logs: (k,) log-probabilities of the ids.
        """
        of, n = self.row[self.entry], len(self.place)
        top = torch.full((n,), -math.inf, device=logs.device).scatter_reduce(0, of, logs.detach(), "amax")
        got = torch.zeros_like(self.mass).index_add(0, self.entry, (logs - top[of]).exp())
        none = torch.zeros(n, device=logs.device)
        whole = none.index_add(0, self.row, got)[self.row]
        apart = torch.xlogy(self.mass, self.mass) - self.mass * (got.clamp(min=_LEAST).log() - whole.log())
        return none.index_add(0, self.row, apart)

    def left_open(self, logs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Nats of the text's own next id among those of its entry, by entry that has it.

        Args:
            logs: (k,) log-probabilities of the ids.
            ids: (positions,) int64 of the text.
        """
        following = torch.nn.functional.pad(ids[1:], (0, 1), value=-1)
        own = torch.nonzero(following[self.at] == self.token)[:, 0]
        of_entry = torch.full((len(self.mass),), -1, device=logs.device)
        of_entry[self.entry[own]] = torch.arange(len(own), device=logs.device)
        some = of_entry[self.entry] >= 0
        index = of_entry[self.entry[some]]
        times = (logs[some] - logs[own][index]).clamp(max=_TIMES).exp()
        return torch.zeros(len(own), device=logs.device).index_add(0, index, times).log()


class Beliefs:
    """What the base says along a part of a piece of text.

    Attributes:
        meet: (n, 2) positions of student and base at which both have read the same bytes.
        so_far: (n,) log-probability of the base's tokens since the first of them.
        row: (likely,) int64, index of the meeting that a likely token follows.
        token: (likely,) int64, its id.
        mass: (likely,) its probability.
    """

    def __init__(
        self,
        meet: Sequence[tuple[int, int]],
        so_far: Sequence[float],
        likely: Likely,
        mass_of: MassOf,
        behind: Behind = lambda _: None,
    ) -> None:
        """Keep what is known.

        Args:
            meet: See above.
            so_far: See above.
            likely: Rows, tokens and masses.
            mass_of: Called with a row and (k,) int64 ids; gives their probabilities behind that meeting.
            behind: Called with a position of the base; gives what is likely there, at a meeting or not.
        """
        self.meet, self.so_far, self._of, self.behind = list(meet), list(so_far), mass_of, behind
        self.row, self.token, self.mass = likely

    @classmethod
    def of_logits(cls, meet: Sequence[tuple[int, int]], ids: Sequence[int], logits: torch.Tensor) -> Beliefs:
        """Sum up.

        Args:
            meet: See above.
            ids: The base's, of the whole piece.
            logits: (positions, rows) of the base, from the first meeting to the last.
        """
        first = meet[0][1]
        total = log_normaliser(logits)
        gold = torch.tensor(ids[first + 1 : first + len(logits)], device=logits.device)
        each = logits[:-1].gather(1, gold[:, None])[:, 0].float() - total[:-1]
        along = [0.0, *each.cpu().double().cumsum(0).tolist()]
        rows = torch.tensor([there - first for _, there in meet], device=logits.device)
        place, following, share = _above(logits, total, _FOLLOWS)
        begin = [0, *torch.bincount(place, minlength=len(logits)).cumsum(0).tolist()]

        def behind(position: int) -> tuple[list[int], list[float]] | None:
            if not first <= position < first + len(begin) - 1:
                return None
            some = slice(begin[position - first], begin[position - first + 1])
            return following[some].tolist(), share[some].tolist()

        logits, total = logits[rows], total[rows]
        likely = _above(logits, total, UNLIKELY)

        def mass_of(row: int, ids: torch.Tensor) -> torch.Tensor:
            return (logits[row, ids.to(logits.device)].float() - total[row]).exp().cpu()

        return cls(meet, [along[there - first] for _, there in meet], likely, mass_of, behind)

    def inside(self, row: int, at: Inside) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Ids that may follow behind a meeting and a part of a token, their masses, and that of the token's end."""
        mass = torch.zeros(len(at.token)).index_add_(0, at.index, self._of(row, at.longer))
        return at.token, mass, float(self._of(row, at.ended).sum())

    def ways(
        self, ids: Sequence[int], place: int, splits: Splits
    ) -> Iterator[tuple[float, tuple[torch.Tensor, torch.Tensor, float]]]:
        """Of having read a part of a token behind each meeting before a position: their log-probability up to there."""
        for row, (begin, _) in enumerate(self.meet):
            if begin < place <= begin + splits.deepest:
                at = splits.at(tuple(ids[begin + 1 : place + 1]))
                if at is not None:
                    yield self.so_far[row], self.inside(row, at)


def _above(logits: torch.Tensor, total: torch.Tensor, least: float) -> Likely:
    """What is more probable than ``least``, on the CPU; ``total`` normalises."""
    row, token = torch.nonzero(logits > (total + math.log(least))[:, None].to(logits.dtype), as_tuple=True)
    return row.cpu(), token.cpu(), (logits[row, token].float() - total[row]).exp().cpu()


def next_ids(beliefs: Beliefs, ids: Sequence[int], splits: Splits, classes: Classes) -> Targets:
    """What is wanted at meetings, by class of ids that begin with the same shared token.

    Args:
        beliefs: The base's.
        ids: The student's, of the piece.
        splits: Of the base's tokens.
        classes: Of both models' ids.
    """
    begin = 1 if beliefs.meet[0][0] > 0 and len(beliefs.meet) > 1 else 0  # what led to the first one is not known
    index, group, part = classes.spread(beliefs.token)
    here = (beliefs.row[index] >= begin) & (group >= 0)
    index, group, part = index[here], group[here], part[here]
    rows, groups, masses = [beliefs.row[index]], [group], [beliefs.mass[index] * part]
    for row, (place, _) in enumerate(beliefs.meet[begin:], begin):
        for now, (token, mass, _) in beliefs.ways(ids, place, splits):
            share, group = mass * math.exp(min(now - beliefs.so_far[row], 20.0)), classes.of_student[token]
            some = (share > UNLIKELY) & (group >= 0)
            rows.append(torch.full((int(some.sum()),), row))
            groups.append(group[some])
            masses.append(share[some])
    key, index = torch.unique(torch.cat(rows) * classes.number + torch.cat(groups), return_inverse=True)
    mass = torch.zeros(len(key)).index_add_(0, index, torch.cat(masses))
    row, group = key // classes.number, key % classes.number
    # what the student can say nothing of, control tokens, takes no part; unlikely tokens are the rest
    n = len(beliefs.meet)
    likely = torch.zeros(n).index_add_(0, beliefs.row, beliefs.mass)
    whole = torch.zeros(n).index_add_(0, row, mass) + (1 - likely).clamp(min=0)
    entry, token = classes.members(group)
    places = torch.tensor([place for place, _ in beliefs.meet[begin:]], dtype=torch.int64)
    return Targets(places, row - begin, mass / whole[row].clamp(min=_LEAST), entry, token)


def inside_of_tokens(beliefs: Beliefs, ids: Sequence[int], splits: Splits) -> Targets:
    """What is wanted between meetings, inside of one token of the base: of several, one may begin within an id.

    Args:
        beliefs: The base's.
        ids: The student's, of the piece.
        splits: Of the base's tokens.
    """
    found = []
    for (here, there), (end, last) in pairwise(beliefs.meet):
        for place in range(here + 1, end if last == there + 1 else here + 1):
            ways = list(beliefs.ways(ids, place, splits))
            if ways and (wanted := _mixed(place, ways)) is not None:
                found.append(wanted)
    return Targets.of_ids(found)


def behind_branches(beliefs: Beliefs, branches: Sequence[tuple[int, Path]], begin: int, splits: Splits) -> Targets:
    """What is wanted where a meeting's text and a part of a token have been read.

    Args:
        beliefs: The base's.
        branches: Index of the meeting, and the part.
        begin: Position of the first branch; the others follow.
        splits: Of the base's tokens.
    """
    found = []
    for place, (row, path) in enumerate(branches, begin):
        at = splits.at(path)
        if at is not None and (wanted := _mixed(place, [(0.0, beliefs.inside(row, at))])) is not None:
            found.append(wanted)
    return Targets.of_ids(found)


def _mixed(
    place: int, ways: list[tuple[float, tuple[torch.Tensor, torch.Tensor, float]]]
) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """The mixture of several ways to have read what was read; None where all are next to impossible."""
    top = max(now for now, _ in ways)
    parts = [(math.exp(now - top), *way) for now, way in ways]
    token, index = torch.unique(torch.cat([tokens for _, tokens, _, _ in parts]), return_inverse=True)
    mass = torch.zeros(len(token)).index_add_(0, index, torch.cat([weight * masses for weight, _, masses, _ in parts]))
    total = float(mass.sum()) + sum(weight * ended for weight, _, _, ended in parts)
    if total < _LEAST:
        return None
    mass = mass / total
    return place, token[mass > _KEPT], mass[mass > _KEPT]
