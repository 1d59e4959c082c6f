"""Combine the rows of the base's pieces of a token's text: ``subtoken``.

Their mean is FVT (arXiv 2402.09977, section 3). The last piece has read the whole token and suits the input,
the first is what the model would have to predict next and suits the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Needs, Pieces, Resources, parts
from tokensurgeon.transfer.statistics import mean_row

__all__ = ["Subtoken"]

Combination = Literal["mean", "first", "last", "decay"]


@dataclass(frozen=True, slots=True)
class Subtoken:
    """Rows of the token's pieces in the base.

    Attributes:
        input: How pieces are combined for the input embedding: their ``mean``, the ``first`` or ``last``
            one, or ``decay``, each counting half as much as the one before.
        head: The same for the LM head. Where both are one matrix, its row is the mean of the two.
    """

    name: ClassVar[str] = "subtoken"
    needs: ClassVar[Needs] = "text"
    input: Combination = "mean"
    head: Combination = "mean"

    def fit(self, space: DonorSpace, _: Resources) -> _Cut:
        """Keep the pieces."""
        if space.pieces is None:
            raise InputError("method subtoken needs the tokens' texts in the base's tokens")
        return _Cut(self, space.pieces)


@dataclass(frozen=True, slots=True)
class _Cut:
    how: Subtoken
    pieces: Pieces

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        every = base.every.float()
        nothing = mean_row(base.every)  # for bytes that the base cannot spell
        chosen = {"input": [self.how.input], "head": [self.how.head], "both": [self.how.input, self.how.head]}
        combinations = sorted(set(chosen[base.use]))
        for part in parts(len(self.pieces)):
            some = self.pieces[part]
            rows = torch.stack([_combined(some, every, how) for how in combinations]).mean(dim=0)
            rows[some.lengths() == 0] = nothing
            yield rows


def _combined(pieces: Pieces, every: torch.Tensor, how: Combination) -> torch.Tensor:
    lengths = pieces.lengths()
    place = torch.arange(len(pieces.ids)) - torch.repeat_interleave(pieces.starts, lengths)
    of = torch.repeat_interleave(lengths, lengths)
    weight = {
        "mean": torch.ones(len(place)),
        "first": (place == 0).float(),
        "last": (place == of - 1).float(),
        "decay": torch.exp2(-place.float()),
    }[how]
    total = torch.zeros(len(lengths)).index_add_(0, torch.repeat_interleave(lengths), weight)
    weight = weight / torch.repeat_interleave(total, lengths)
    return torch.nn.functional.embedding_bag(pieces.ids, every, pieces.starts, mode="sum", per_sample_weights=weight)
