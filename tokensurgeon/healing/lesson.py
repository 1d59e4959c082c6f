"""Ask the base about a piece of text, and set what the student is to read and to say of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.branches import DEEPEST, Branch, draw_branches, lay_out, reads_branches
from tokensurgeon.healing.joined import joined_tokens
from tokensurgeon.healing.joins import Joins
from tokensurgeon.healing.meeting import Classes
from tokensurgeon.healing.objective import TermWeights, losses
from tokensurgeon.healing.splits import Splits
from tokensurgeon.healing.targets import Beliefs, Targets, behind_branches, inside_of_tokens, next_ids

__all__ = ["Answer", "Lesson", "Task", "asked_of"]

log = logging.getLogger(__name__)

_LOOKED_AT = 16
"""Pieces among which one with branches is looked for."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the student is to read at once, and what it is asked.

    Attributes:
        ids: (1, positions) int64.
        more: Arguments of the model besides.
        place: (asked,) int64 positions at which logits are needed, ascending.
        row: (n,) int64, index into them of every id that is asked for.
        token: (n,) int64, the id.
        here: (meetings,) int64, positions of the student's states that are compared.
        states: (meetings, dim) of the base.
        targets: What is wanted.
    """

    ids: torch.Tensor
    more: dict[str, torch.Tensor]
    place: torch.Tensor
    row: torch.Tensor
    token: torch.Tensor
    here: torch.Tensor
    states: torch.Tensor
    targets: dict[str, Targets]

    def parts(self, logs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Log-probabilities that were asked for, by what they are for: the targets, and the text itself (``text``)."""
        counts = [len(wanted.token) for wanted in self.targets.values()]
        parts = torch.split(logs, [*counts, len(logs) - sum(counts)])
        return dict(zip([*self.targets, "text"], parts, strict=True))


Answer = tuple[torch.Tensor, torch.Tensor]
"""(n,) log-probabilities of the ids that a task asks for, and (meetings, dim) states."""


def asked_of(
    ids: torch.Tensor,
    more: dict[str, torch.Tensor],
    text: Sequence[int],
    targets: dict[str, Targets],
    device: torch.device,
    states: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Task:
    """A task that asks for what is wanted, and for a text's own next ids.

    Args:
        ids: (1, positions) int64, the text's first of all.
        more: Arguments of the model besides.
        text: The text's ids.
        targets: What is wanted.
        device: Where it is read.
        states: Positions whose states are compared, and the teacher's; None for none.
    """
    own = torch.arange(len(text) - 1)
    at = torch.cat([*(wanted.at for wanted in targets.values()), own])
    asked = torch.zeros(ids.shape[1], dtype=torch.bool).index_fill_(0, at, True)
    place, row = torch.nonzero(asked)[:, 0], (asked.cumsum(0) - 1)[at]
    token = torch.cat([*(wanted.token for wanted in targets.values()), torch.tensor(text[1:])])
    here, there = states or (torch.empty(0, dtype=torch.int64), torch.empty(0, 0))
    moved: Task = _moved(Task(ids, more, place, row, token, here, there, targets), device)
    return moved


class Lesson:
    """The base as a teacher."""

    def __init__(
        self,
        student: LoadedModel,
        teacher: LoadedModel,
        splits: Splits,
        classes: Classes,
        joins: Joins,
        weights: TermWeights,
        seed: int,
    ) -> None:
        """Keep both.

        Args:
            student: With trained rows in front.
            teacher: Frozen; its head can be asked.
            splits: How the student cuts the teacher's tokens.
            classes: Of both models' ids.
            joins: What the student has of several of the teacher's tokens in one.
            weights: Of the terms.
            seed: For parts of pieces and branches.
        """
        self.student, self.teacher = student, teacher
        self.splits, self.classes, self.joins = splits, classes, joins
        self.weights, self.seed = weights, seed
        window = getattr(student.model.config.get_text_config(), "sliding_window", None)
        self.longest = min((n for n in (window, student.context) if n is not None), default=None)
        """Ids that a text may have for branches to stand behind it. Beyond the context there are no positions; a window
        would hide the text's beginning from some layers, and the mask says nothing of that."""
        self.branches = weights.branches if splits.several.any() else 0
        """Positions on branches, at most. A student that splits nothing, or cannot read them, has none."""
        self.variance = 1.0

    def prepare(self, pieces: Sequence[Piece]) -> None:
        """Measure how much the teacher's states vary, and compare a branch with plain reading.

        Where the student takes a branch for something else, none are read.
        """
        states: list[torch.Tensor] = []
        tried: tuple[list[int], list[tuple[int, int]], list[Branch]] = [], [], []
        for number, piece in enumerate(pieces[:_LOOKED_AT]):
            meet, beliefs, seen = self._ask(piece, number)
            states.append(seen[1:].float())
            branches = self._branches(piece, beliefs, number)
            if _depth(branches) > _depth(tried[2]):
                tried = piece.student, meet, branches
            if number >= 3 and (tried[2] or not self.branches):
                break
        self.variance = float(torch.cat(states).var(dim=0).mean())
        model = self.student.model
        if self.branches and not tried[2]:
            self.branches = 0  # nobody knows whether it could read them
            log.warning(
                "no piece of the text leaves room for branches (%s tokens are read at once): what may follow inside of "
                "the base's tokens is learnt from the text alone, which is slower. Text of shorter lines may help",
                f"{self.longest:,}" if self.longest is not None else "all",
            )
        elif tried[2] and not reads_branches(model, *tried):
            self.branches = 0
            log.warning(
                "%s reads no branches (its attention takes no mask from outside): what may follow inside of the "
                "base's tokens is learnt from the text alone, which is slower", type(model).__name__,
            )  # fmt: skip

    def task(self, piece: Piece, number: int) -> Task:
        """Let the teacher read a piece.

        Args:
            piece: The text.
            number: Of the piece in the order of all; another part and other branches are chosen for every number.
        """
        meet, beliefs, seen = self._ask(piece, number)
        branches = self._branches(piece, beliefs, number)
        targets = {name: Targets.of_ids([]) for name in ("next", "inside", "joined", "branch")}
        if beliefs is not None:
            targets["next"] = next_ids(beliefs, piece.student, self.splits, self.classes)
            targets["inside"] = inside_of_tokens(beliefs, piece.student, self.splits)
            targets["joined"] = joined_tokens(beliefs, piece.student, piece.teacher, self.joins)
            targets["branch"] = behind_branches(beliefs, branches, len(piece.student), self.splits)
        laid = lay_out(piece.student, meet, branches)
        more = {"attention_mask": torch.ones_like(laid.ids)}
        if branches:
            dtype = self.student.model.get_input_embeddings().weight.dtype
            more = {"attention_mask": laid.mask(dtype), "position_ids": laid.position}
        both = torch.tensor(piece.meet, dtype=torch.int64).reshape(-1, 2)
        states = both[:, 0], seen[both[:, 1].to(seen.device)]
        return asked_of(laid.ids, more, piece.student, targets, self.student.model.device, states)

    def losses(self, task: Task, answer: Answer) -> dict[str, torch.Tensor]:
        """How far the student is from what is wanted, see `tokensurgeon.healing.objective`."""
        logs, states = answer
        return losses(task.targets, task.parts(logs), (states, task.states), self.variance, self.weights)

    def _ask(self, piece: Piece, number: int) -> tuple[list[tuple[int, int]], Beliefs | None, torch.Tensor]:
        """Meetings in a part of a piece, what the teacher believes there, and its states all over the piece."""
        n = len(piece.meet)
        size = min(n, max(2, round(n * self.weights.part)))
        begin = int(np.random.default_rng((self.seed, number)).integers(0, n - size + 1))
        meet = piece.meet[begin : begin + size]
        model, head = self.teacher.model, self.teacher.model.get_output_embeddings()
        asked = torch.arange(meet[0][1], meet[-1][1] + 1) if meet else torch.zeros(1, dtype=torch.int64)
        head.wanted = torch.zeros_like(asked), asked
        with torch.no_grad():
            ids = torch.tensor([piece.teacher], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0]
            return meet, Beliefs.of_logits(meet, piece.teacher, logits) if meet else None, head.seen[0]

    def _branches(self, piece: Piece, beliefs: Beliefs | None, number: int) -> list[Branch]:
        too_long = self.longest is not None and len(piece.student) + DEEPEST > self.longest
        if beliefs is None or too_long:
            return []
        generator = torch.Generator().manual_seed((self.seed << 32) + number)
        return draw_branches(beliefs, self.splits, self.branches, generator)


def _depth(branches: Sequence[Branch]) -> int:
    return max((len(path) for _, path in branches), default=0)


def _moved(part: Any, device: torch.device) -> Any:
    """Tensors of a dataclass, and of what is in it, on a device."""
    if isinstance(part, torch.Tensor):
        return part.to(device)
    if isinstance(part, dict):
        return {name: _moved(value, device) for name, value in part.items()}
    return replace(part, **{f.name: _moved(getattr(part, f.name), device) for f in fields(part)})
