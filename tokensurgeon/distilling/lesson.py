"""Set a student what a teacher said of a piece of text."""

from __future__ import annotations

import torch

from tokensurgeon.distilling.cache import TopCache
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.lesson import Answer, Task, asked_of
from tokensurgeon.healing.meeting import Classes
from tokensurgeon.healing.splits import Splits
from tokensurgeon.healing.targets import Targets, inside_of_tokens, next_ids

__all__ = ["TaughtLesson"]


class TaughtLesson:
    """The teacher's kept distributions, in the student's ids, beside the text's own next tokens.

    A student with the teacher's ids has a meeting at each position, and what is wanted there is the teacher's
    distribution itself. One with ids of its own gets the mixture over all ways in which the teacher may have cut what
    was read (`tokensurgeon.healing.targets`), also inside of the teacher's tokens.
    """

    def __init__(self, student: LoadedModel, cache: TopCache, splits: Splits, classes: Classes, weight: float) -> None:
        """Keep them.

        Args:
            student: With trained rows in front.
            cache: What the teacher said.
            splits: How the student cuts the teacher's tokens.
            classes: Of both models' ids.
            weight: Share of the loss that is the teacher's.
        """
        self.student, self.cache, self.splits, self.classes, self.weight = student, cache, splits, classes, weight

    def task(self, piece: Piece, number: int) -> Task:  # noqa: ARG002
        """What is wanted along a piece."""
        targets = {name: Targets.of_ids([]) for name in ("next", "inside")}
        if self.weight and piece.meet:
            top = self.cache.load(piece.teacher)
            if top is None:
                where = self.cache.path(piece.teacher)
                raise InputError(
                    f"{where} is gone: all processes must see the cache that the teacher's reading went to"
                )
            beliefs = top.beliefs(piece.meet, piece.teacher)
            targets["next"] = next_ids(beliefs, piece.student, self.splits, self.classes)
            targets["inside"] = inside_of_tokens(beliefs, piece.student, self.splits)
        ids = torch.tensor([piece.student])
        more = {"attention_mask": torch.ones_like(ids)}
        return asked_of(ids, more, piece.student, targets, self.student.model.device)

    def losses(self, task: Task, answer: Answer) -> dict[str, torch.Tensor]:
        """``teacher``, the divergence by position where both models' texts meet; ``text``; and ``loss``."""
        logs, _ = answer
        parts = task.parts(logs)
        apart = {name: wanted.divergence(parts[name]) for name, wanted in task.targets.items()}
        terms = {
            "teacher": torch.cat([*apart.values()]).sum() / max(1, len(apart["next"])),
            "text": -parts["text"].mean(),
        }
        return terms | {"loss": self.weight * terms["teacher"] + (1 - self.weight) * terms["text"]}
