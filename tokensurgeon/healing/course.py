"""Follow a training as it goes on: how far it is, its losses and scores, its best state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.healing.options import TrainingOptions

__all__ = ["Course", "HealProgress", "HealReport"]

_EVALUATIONS = 5


@dataclass(slots=True)
class HealReport:
    """How it went.

    Attributes:
        out: The written model; None on processes that do not write.
        steps: Updates made.
        tokens: Tokens of the new tokenization read for them, those of branches among them.
        positions: By name of what is wanted, the positions that it was wanted at.
        seconds: Training and evaluating.
        rows: Rows that were trained.
        curve: One entry per evaluation: ``step``, ``minutes``, ``held_out`` and ``other`` bits per byte (on text of the
            kind that is trained on, and of another kind), and the means of the losses since the one before.
        best: The entry whose state was kept, by ``held_out``.
        own: ``bytes`` that the base wrote to be trained on, and the ``seconds`` that it took, before those of training.
        sent: With groups that meet, bytes that this one sent (states for those that return among them), and would have
            sent, had they met at every step; for each token that it read.
    """

    out: Path | None = None
    steps: int = 0
    tokens: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    rows: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)


HealProgress = Callable[[float, HealReport, dict[str, float]], None]
"""Called with (share done, report so far, last losses)."""


class Course:
    """What is known of a training."""

    def __init__(
        self, options: TrainingOptions, student: LoadedModel, scored: tuple[Sequence[str], Sequence[str]]
    ) -> None:
        """Keep them.

        Args:
            options: How long it is.
            student: What of it requires gradients is trained.
            scored: Held-out text, and text of another kind.
        """
        self.options, self.student, self.scored = options, student, scored
        self.report, self.begun = HealReport(), time.perf_counter()
        self.best, self.sums = dict[str, torch.Tensor](), dict[str, float]()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.student.model.named_parameters() if p.requires_grad}

    def put(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go to a state."""
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(state[name])

    def begin(self, spent: float = 0.0) -> None:
        """Start the clock, of which ``spent`` seconds are over; score what was not scored yet."""
        self.begun = time.perf_counter() - spent
        if not self.report.curve:
            self.evaluate()

    def share(self, steps: int) -> float:
        """How much of the training is done, by these steps or by the time."""
        if self.options.steps is not None:
            return steps / self.options.steps
        return (time.perf_counter() - self.begun) / (60 * self.options.minutes)

    def stepped(self, losses: Mapping[str, float]) -> None:
        """Count the time and the losses of an update."""
        self.report.seconds = time.perf_counter() - self.begun
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def due(self, share: float) -> bool:
        """Whether it is time to evaluate, behind an update that began at a share of the training."""
        return share * _EVALUATIONS >= len(self.report.curve)

    def evaluate(self, **said: float) -> None:
        """Score, and keep the state if it is the best."""
        student, report = self.student, self.report
        held_out, other = (
            score_text(student.model, student.encode, student.prefix, pieces).bits_per_byte for pieces in self.scored
        )
        report.seconds = time.perf_counter() - self.begun
        since = report.steps - (report.curve[-1]["step"] if report.curve else 0)
        losses = {name: total / since for name, total in self.sums.items()} if since else {}
        self.sums = {}
        entry = {
            "step": report.steps, "minutes": round(report.seconds / 60, 3), "held_out": held_out, "other": other,
            **losses, **said,
        }  # fmt: skip
        report.curve.append(entry)
        if not report.best or held_out < report.best["held_out"]:
            report.best = entry
            self.best = {name: p.detach().clone() for name, p in self.parameters().items()}

    def end(self) -> None:
        """Score the last state, if it was not."""
        if self.report.curve[-1]["step"] != self.report.steps:
            self.evaluate()
