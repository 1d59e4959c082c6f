"""Compute the loss of a student against its teacher.

Three terms, each a mean over a piece's positions and then over pieces, so that batches of any size add up:

* ``hidden``: at positions where both have read the same bytes, squared distance of the states that enter the LM heads,
  in units of the teacher's variance;
* ``next``: at the same positions, divergence of the next token's distribution from the teacher's, over the shared
  tokens that a continuation begins with (`tokensurgeon.healing.meeting.first_shared`);
* ``text``: the student's own next-token loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["WEIGHTS", "Objective", "TermWeights"]


@dataclass(frozen=True, slots=True)
class TermWeights:
    """How much the terms count; a training that was begun with others is not gone on from.

    Attributes:
        hidden: Weight of the first.
        next: Weight of the second.
        text: Weight of the third.
        stride: Distributions are compared at every so many meetings.
    """

    hidden: float = 1.0
    next: float = 1.0
    text: float = 1.0
    stride: int = 4


WEIGHTS = TermWeights()
"""Those that `heal` trains with."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss.

    Attributes:
        variance: Of the teacher's states, mean over coordinates.
        teacher_class: (teacher rows,) int64, see `first_shared` and `numbered`; -1 for none.
        student_class: (student rows,) int64.
        weights: Of the terms.
    """

    variance: float
    teacher_class: torch.Tensor
    student_class: torch.Tensor
    weights: TermWeights = WEIGHTS

    def __call__(
        self,
        batch: dict[str, torch.Tensor],
        student: tuple[torch.Tensor, torch.Tensor],
        teacher: tuple[torch.Tensor, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The three terms, and ``loss``, their weighted sum.

        Args:
            batch: As `collate` makes it.
            student: (pieces, positions, rows) logits and (pieces, positions, dim) states.
            teacher: (compared meetings, rows) logits and (pieces, positions, dim) states.
        """
        logits, states = student
        n = len(logits)
        gold, mask = (torch.nn.functional.pad(batch[key][:, 1:], (0, 1)) for key in ("student", "student_mask"))
        per = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), gold.flatten(), reduction="none")
        per = per.view_as(gold)
        terms = {"text": ((per * mask).sum(dim=1) / mask.sum(dim=1)).mean()}
        piece, here, there = _met(batch)
        apart = (states[piece, here].float() - teacher[1][piece, there].float()).square().mean(dim=-1)
        terms["hidden"] = _mean_of_means(apart, piece, n) / self.variance
        piece, here, _ = self.compared(batch)
        terms["next"] = _mean_of_means(self._divergence(logits[piece, here], teacher[0]), piece, n)
        of = self.weights
        terms["loss"] = of.text * terms["text"] + of.hidden * terms["hidden"] + of.next * terms["next"]
        return terms

    def compared(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Piece, student's and teacher's position of those meetings at which distributions are compared: some."""
        return _met(batch, self.weights.stride)

    def _divergence(self, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        n = int(self.teacher_class.max()) + 1
        wanted = _by_class(theirs.float().softmax(dim=-1), self.teacher_class, n)
        got = _by_class(mine.float().softmax(dim=-1), self.student_class, n)
        wanted = wanted / wanted.sum(dim=-1, keepdim=True).clamp(min=1e-9)
        return (wanted * ((wanted + 1e-9).log() - (got + 1e-9).log())).sum(dim=-1)


def _by_class(probability: torch.Tensor, classes: torch.Tensor, n: int) -> torch.Tensor:
    """Sums over the columns of each of ``n`` classes; those of none or of others go to a column that is dropped."""
    classes = torch.nn.functional.pad(classes, (0, probability.shape[-1] - len(classes)), value=-1)
    empty = torch.zeros(len(probability), n + 1, device=probability.device)
    return empty.index_add_(1, torch.where((classes < 0) | (classes >= n), n, classes), probability)[:, :n]


def _met(batch: dict[str, torch.Tensor], stride: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Piece, student's and teacher's position of every meeting, or of every so many of a piece."""
    piece, place = torch.nonzero(batch["meet"][:, ::stride, 0] >= 0, as_tuple=True)
    place = place * stride
    meet = batch["meet"][piece, place]
    return piece, meet[:, 0], meet[:, 1]


def _mean_of_means(values: torch.Tensor, piece: torch.Tensor, n: int) -> torch.Tensor:
    """Mean over each piece's values, and then over ``n`` pieces."""
    counts = torch.bincount(piece, minlength=n)
    return (values / counts[piece]).sum() / n
