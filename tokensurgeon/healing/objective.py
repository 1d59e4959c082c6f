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
* ``text``: the student's own mean next-token loss among the ids that the text could have, which are all but those new
  ones that it never has: these would only be unlearnt.
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
_LEAST = torch.finfo(torch.float32).tiny


class Asked(torch.autograd.Function):
    """Log-probabilities of some ids and of a set of them, without those of all others in float32 beside the logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor, some: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(asked,) float32 of the ids, and (positions,) of the set.

        Args:
            ctx: PyTorch's.
            logits: (positions, rows).
            row: (asked,) int64.
            token: (asked,) int64.
            some: (rows,) float32, 1 in the set and 0 elsewhere; None for all, whose logarithm is 0.
        """
        total = log_normaliser(logits)
        of_set = torch.zeros_like(total)
        if some is not None:
            for part in in_parts(logits):
                of_set[part] = _shares(logits, total, part).mul_(some).sum(dim=1).clamp_(min=_LEAST).log_()
        ctx.save_for_backward(logits, total, row, token, some, of_set)
        return logits[row, token].float() - total[row], of_set

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Of the logits."""
        logits, total, row, token, some, of_set = ctx.saved_tensors
        own, whole = grads
        outside = -torch.zeros_like(total).index_add_(0, row, own)
        within = None if some is None else whole / of_set.exp()
        row, order = torch.sort(row)
        token, own = token[order], own[order]
        found, begin = torch.empty_like(logits), 0
        for part in in_parts(logits):
            each = _shares(logits, total, part)
            each *= outside[part, None] if within is None else within[part, None] * some + (outside - whole)[part, None]
            end = int(torch.searchsorted(row, part.stop))
            here = slice(begin, end)
            each.view(-1).scatter_add_(0, (row[here] - part.start) * each.shape[1] + token[here], own[here])
            found[part], begin = each, end
        return found, None, None, None


def _shares(logits: torch.Tensor, total: torch.Tensor, part: slice) -> torch.Tensor:
    """Probabilities at some positions."""
    return (logits[part].float() - total[part, None]).exp_()


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
