"""Keep the likeliest tokens of a teacher's distributions, and the mass of all others together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from tokensurgeon.healing.targets import UNLIKELY, Beliefs

__all__ = ["Top"]

_ROWS = 64
"""Distributions that are summed up at once: they are large."""


@dataclass(frozen=True, slots=True)
class Top:
    """What a teacher says behind each position of a piece.

    The text's own next token is always among what is kept. What the others leave of 1 is the tail.

    Attributes:
        token: (positions, kept) int32 ids, ascending.
        log: (positions, kept) float16, their log-probabilities.
    """

    token: torch.Tensor
    log: torch.Tensor

    @classmethod
    def of_logits(cls, logits: torch.Tensor, ids: Sequence[int], kept: int) -> Self:
        """Of a teacher that was read.

        Args:
            logits: (positions, rows), of all positions of a piece.
            ids: Of the piece, one for each position.
            kept: Tokens to keep at each.
        """
        gold = torch.tensor([*ids[1:], ids[-1]], device=logits.device)  # behind the last position nothing follows
        tokens, logs = [], []
        for some, own in zip(torch.split(logits, _ROWS), torch.split(gold, _ROWS), strict=True):
            some = some.float()
            total = some.logsumexp(dim=-1, keepdim=True)
            token = some.topk(min(kept, some.shape[-1]), dim=-1).indices
            missing = ~(token == own[:, None]).any(dim=-1)
            token[missing, -1] = own[missing]
            token = token.sort(dim=-1).values
            tokens.append(token.int().cpu())
            logs.append((some.gather(1, token) - total).half().cpu())
        return cls(torch.cat(tokens), torch.cat(logs))

    def beliefs(self, meet: Sequence[tuple[int, int]], ids: Sequence[int]) -> Beliefs:
        """What it says along a piece.

        Args:
            meet: (n, 2) positions of student and teacher at which both have read the same bytes.
            ids: The teacher's, of the piece.
        """
        token, log = self.token.long(), self.log.float()
        own = (token[:-1] == torch.tensor(ids[1:])[:, None]).int().argmax(dim=-1)
        along = [0.0, *log[:-1].gather(1, own[:, None])[:, 0].double().cumsum(0).tolist()]
        rows = torch.tensor([there for _, there in meet])
        token, log = token[rows], log[rows]
        row, column = torch.nonzero(log > math.log(UNLIKELY), as_tuple=True)

        def mass_of(row: int, wanted: torch.Tensor) -> torch.Tensor:
            place = torch.searchsorted(token[row], wanted).clamp(max=token.shape[1] - 1)
            return torch.where(token[row, place] == wanted, log[row, place].exp(), 0.0)

        likely = row, token[row, column], log[row, column].exp()
        return Beliefs(meet, [along[there] for _, there in meet], likely, mass_of)
