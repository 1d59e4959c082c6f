"""Follow a training that another library's trainer does: how far it is, its scores, its best state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.healing.loop import HealProgress, HealReport
from tokensurgeon.healing.options import TrainingOptions

__all__ = ["Course"]

_EVALUATIONS = 5


class Course:
    """What is known of a training as it goes on."""

    def __init__(
        self,
        options: TrainingOptions,
        student: LoadedModel,
        scored: tuple[Sequence[str], Sequence[str]],
        progress: HealProgress | None,
    ) -> None:
        """Keep them.

        Args:
            options: How long it is.
            student: What of it requires gradients is trained.
            scored: Held-out text, and text of another kind.
            progress: Called with (share done, report so far, last losses).
        """
        self.options, self.student, self.scored, self.progress = options, student, scored, progress
        self.report, self.losses, self.best = HealReport(), list[float](), dict[str, torch.Tensor]()
        self.begun = time.perf_counter()
        self.parameters = {name: p for name, p in student.model.named_parameters() if p.requires_grad}

    def share(self, step: int) -> float:
        """Of the training that is done before a step, by the steps or the time."""
        if self.options.steps is not None:
            return step / self.options.steps
        return (time.perf_counter() - self.begun) / (60 * self.options.minutes)

    def begin(self) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()
        self.evaluate()

    def end(self) -> None:
        """Go back to the best state."""
        if self.report.curve[-1]["step"] != self.report.steps:
            self.evaluate()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.best[name])

    def evaluate(self) -> None:
        """Score, and keep the state if it is the best."""
        student, report = self.student, self.report
        student.model.eval()
        held_out, other = (
            score_text(student.model, student.encode, student.prefix, pieces).bits_per_byte for pieces in self.scored
        )
        student.model.train()
        report.seconds = time.perf_counter() - self.begun
        said = {"teacher": sum(self.losses) / len(self.losses)} if self.losses else {}
        minutes, self.losses = round(report.seconds / 60, 3), []
        report.curve.append({"step": report.steps, "minutes": minutes, "held_out": held_out, "other": other} | said)
        if not report.best or held_out < report.best["held_out"]:
            report.best = report.curve[-1]
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}

    def callback(self) -> Any:
        """What listens to a trainer of transformers, or one made of it."""
        from transformers import TrainerCallback

        course, report = self, self.report

        class Tells(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
                report.steps += 1
                report.seconds = time.perf_counter() - course.begun
                control.should_training_stop = course.share(report.steps) >= 1

            def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
                if "loss" not in logs:
                    return
                course.losses.append(float(logs["loss"]))
                share = course.share(report.steps)
                if course.progress is not None:
                    course.progress(min(share, 1.0), report, {"teacher": course.losses[-1]})
                if share < 1 and share * _EVALUATIONS >= len(report.curve):
                    course.evaluate()

        return Tells()
