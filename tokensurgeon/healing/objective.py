"""Compute the loss of a student against its base.

Six terms of a piece:

* ``hidden``: at positions where both have read the same bytes, mean squared distance of the states that enter the LM
  heads, in units of the base's variance;
* ``next``: at some of them, mean divergence of the next id from what the base's distributions say of it;
* ``inside``: in the same part of the text, divergence of the ids that go on with a token of the base, all others as
  one, summed and divided by the same number, so that it counts as often as it comes;
* ``joined``: in that part too, divergence among ids that begin with the text's next token of the base, of which some
  join it with what the base expects behind it, summed and divided likewise;
* ``branch``: that of ``inside`` in the mean over beginnings of tokens that the base may write, which are read behind
  the text;
* ``text``: the student's own mean next-token loss, which alone teaches what ids are worth that join several tokens of
  the base where it does not foresee them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.evaluation.logits import in_parts, log_normaliser
from tokensurgeon.healing.targets import Targets

__all__ = ["WEIGHTS", "Asked", "TermWeights", "losses"]


@dataclass(frozen=True, slots=True)
class TermWeights:
    """How much the terms count; a training that was begun with others is not gone on from.

    Attributes:
        hidden: Weight of the first.
        next: Weight of the second and third.
        branch: Weight of the fifth.
        text: Weight of the sixth.
        joined: Weight of the fourth.
        part: Of each piece, chosen anew every time, that distributions are compared in.
        branches: Positions of the fifth, at most.
    """

    hidden: float = 1.0
    next: float = 1.0
    branch: float = 0.15
    text: float = 1.0
    joined: float = 1.0
    part: float = 1 / 3
    branches: int = 40


WEIGHTS = TermWeights()
"""Those that `heal` trains with."""


class Asked(torch.autograd.Function):
    """Log-probabilities of some ids, without those of all others in float32 beside the logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """(asked,) float32.

        Args:
            ctx: PyTorch's.
            logits: (positions, rows).
            row: (asked,) int64.
            token: (asked,) int64.
        """
        total = log_normaliser(logits)
        ctx.save_for_backward(logits, total, row, token)
        return logits[row, token].float() - total[row]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Of the logits."""
        logits, total, row, token = ctx.saved_tensors
        (own,) = grads
        by_row = torch.zeros_like(total).index_add_(0, row, own)
        row, order = torch.sort(row)
        token, own = token[order], own[order]
        found, begin = torch.empty_like(logits), 0
        for part in in_parts(logits):
            some = (logits[part].float() - total[part, None]).exp_().mul_(-by_row[part, None])
            end = int(torch.searchsorted(row, part.stop))
            here = slice(begin, end)
            some.view(-1).scatter_add_(0, (row[here] - part.start) * some.shape[1] + token[here], own[here])
            found[part], begin = some, end
        return found, None, None


def losses(
    targets: Mapping[str, Targets],
    logs: Mapping[str, torch.Tensor],
    states: tuple[torch.Tensor, torch.Tensor],
    variance: float,
    weights: TermWeights,
) -> dict[str, torch.Tensor]:
    """The terms, and ``loss``, their weighted sum. A term that there is nothing for is nought.

    Args:
        targets: What is wanted: ``next``, ``inside``, ``joined`` and ``branch``.
        logs: Log-probabilities of the ids that they ask for, and of the text's own (``text``).
        states: (meetings, dim) of student and base.
        variance: Of the base's states, mean over coordinates.
        weights: Of the terms.
    """
    student, teacher = (side.float() for side in states)
    apart = {
        name: wanted.divergence_within(logs[name]) if name == "joined" else wanted.divergence(logs[name])
        for name, wanted in targets.items()
    }
    terms = {
        "hidden": _mean((student - teacher).square().mean(dim=-1)) / variance,
        "next": _mean(apart["next"]),
        "inside": apart["inside"].sum() / max(1, len(apart["next"])),
        "joined": apart["joined"].sum() / max(1, len(apart["next"])),
        "branch": _mean(apart["branch"]),
        "text": -_mean(logs["text"]),
    }
    of = {"hidden": weights.hidden, "next": weights.next, "inside": weights.next}
    of |= {"joined": weights.joined, "branch": weights.branch}
    return terms | {"loss": sum((of.get(name, weights.text) * term for name, term in terms.items()), torch.zeros(()))}


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Nought for none; with a gradient all the same, which every process must have."""
    return values.sum() / max(1, len(values))
