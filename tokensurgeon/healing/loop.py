"""Train in steps, evaluate, and keep the best state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.healing.average import LastStates
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.diloco import Groups
from tokensurgeon.healing.lesson import Answer, Task
from tokensurgeon.healing.objective import Asked
from tokensurgeon.healing.options import TrainingOptions
from tokensurgeon.healing.order import Order
from tokensurgeon.healing.resume import SavedState
from tokensurgeon.healing.schedule import schedule_of
from tokensurgeon.healing.trained_rows import TrainedRows, parameter_groups

__all__ = ["HealProgress", "HealReport", "Loop", "Teaching"]

log = logging.getLogger(__name__)

_EVALUATIONS = 5
_SAVE_S = 60.0


@dataclass(slots=True)
class HealReport:
    """How it went.

    Attributes:
        out: The written model; None on processes that do not write.
        steps: Updates made.
        tokens: Tokens of the new tokenization read for them, those of branches among them.
        seconds: Training and evaluating.
        rows: Rows that were trained.
        curve: One entry per evaluation: ``step``, ``minutes``, ``held_out`` and ``other`` bits per byte (on text of the
            kind that is trained on, and of another kind), and the means of the losses since the one before.
        best: The entry whose state was kept, by ``held_out``.
        sent: With groups that meet, bytes that this one sent, and would have sent, had they met at every step; for each
            token that it read.
    """

    out: Path | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rows: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    sent: dict[str, float] = field(default_factory=dict)


HealProgress = Callable[[float, HealReport, dict[str, float]], None]
"""Called with (share done, report so far, last losses)."""


class Teaching(Protocol):
    """What sets tasks."""

    def task(self, piece: Piece, number: int) -> Task:
        """What the student is to read and to say of a piece; ``number`` is that of the update's piece in all."""

    def losses(self, task: Task, answer: Answer) -> dict[str, torch.Tensor]:
        """Terms by name, and ``loss``, which is trained on."""


class _Student(torch.nn.Module):
    """The model, as something that answers a task."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, task: Task) -> Answer:
        head = self.model.get_output_embeddings()
        head.wanted = torch.zeros_like(task.place), task.place
        logits = self.model(input_ids=task.ids, use_cache=False, **task.more).logits[0]
        head.wanted = None
        logs: torch.Tensor = Asked.apply(logits, task.row, task.token)  # type: ignore[no-untyped-call]
        return logs, head.seen[0, task.here]


class Loop:
    """A training."""

    def __init__(
        self,
        accelerator: Any,
        options: TrainingOptions,
        student: LoadedModel,
        trained: dict[str, TrainedRows],
        scored: tuple[Sequence[str], Sequence[str]],
        order: Order,
    ) -> None:
        """Prepare what is trained: rows that require gradients, and whatever else of the student does.

        Args:
            accelerator: accelerate's.
            options: See `TrainingOptions`.
            student: With trained rows in front.
            trained: The rows.
            scored: Held-out text, and text of another kind.
            order: Which piece comes when.
        """
        self.accelerator, self.options, self.student = accelerator, options, student
        self.scored, self.order, self.factor = scored, order, schedule_of(options)
        self.last = LastStates(options.average or 0)
        own = [t.rows for t in trained.values()]
        groups = parameter_groups(student.model, trained, options.learning_rate, options.body_rate)
        self.rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        self.module, self.optimizer = accelerator.prepare(_Student(student.model), optimizer)
        self.report = HealReport(rows=len(own[0]) if own[0].requires_grad else 0)
        self.best: dict[str, torch.Tensor] = {}
        self.sums: dict[str, float] = {}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.student.model.named_parameters() if p.requires_grad}

    def train(
        self, pieces: Sequence[Piece], lesson: Teaching, state: SavedState, progress: HealProgress | None
    ) -> None:
        """Go on from a saved state, or begin; to the end of the steps or minutes, and to the best state."""
        writes = self.accelerator.is_main_process
        begun = time.perf_counter() - self._resume(state)
        if not self.report.curve:
            self._evaluate(begun)
        try:
            with self._groups() as groups:
                self._steps(pieces, begun, state, progress, lesson, groups)
        finally:
            if writes and self.report.steps and self.options.diloco is None:
                self._save(state)
        if self.report.curve[-1]["step"] != self.report.steps:
            self._evaluate(begun)
        if self.options.average is not None:
            self.last.see(1.0, self.parameters())
            self._put(self.last.mean())
            self._evaluate(begun, averaged=float(self.last.taken))
        self._put(self.best)

    def _steps(
        self,
        pieces: Sequence[Piece],
        begun: float,
        state: SavedState,
        progress: HealProgress | None,
        lesson: Teaching,
        groups: Groups | None,
    ) -> None:
        """Update to the end; with groups, evaluate where they are alike, and save nothing: they have each other."""
        writes, saved = self.accelerator.is_main_process, time.perf_counter()
        while (share := self._share(begun)) < 1:
            self.last.see(share, self.parameters())
            if writes and groups is None and time.perf_counter() - saved > _SAVE_S:
                self._save(state)
                saved = time.perf_counter()
            losses = self._update(pieces, share, lesson)
            if groups is not None:
                self.report.steps = groups.stepped()
                tokens = max(self.report.tokens, 1)
                self.report.sent = {"bytes": groups.sent / tokens, "at_every_step": groups.plain / tokens}
            self.report.seconds = time.perf_counter() - begun
            if writes and progress is not None:
                progress(share, self.report, losses)
            if share * _EVALUATIONS >= len(self.report.curve) and (groups is None or groups.together):
                self._evaluate(begun)

    def _groups(self) -> AbstractContextManager[Groups | None]:
        if self.options.diloco is None:
            return nullcontext()

        def state() -> dict[str, Any]:
            return {
                "curve": self.report.curve,
                "best": self.report.best,
                "state": self.best,
                "parameters": {name: p.detach().clone() for name, p in self.parameters().items()},
                "optimizer": inner.state_dict(),
            }

        def load(content: dict[str, Any]) -> None:
            log.warning("taking over the state of another group")
            self.report.curve, self.report.best, self.best = content["curve"], content["best"], content["state"]
            inner.load_state_dict(content["optimizer"])
            self._put(content["parameters"])

        inner = self.optimizer.optimizer
        return Groups(dict(self.parameters()), inner, self.options.diloco, state, load)

    def _put(self, state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(state[name])

    def _update(self, pieces: Sequence[Piece], share: float, lesson: Teaching) -> dict[str, float]:
        options, accelerator = self.options, self.accelerator
        factor = self.factor(share)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        start = (self.report.steps * accelerator.num_processes + accelerator.process_index) * options.batch
        sums: dict[str, torch.Tensor] = {}
        tokens = 0
        for number in range(start, start + options.batch):
            task = lesson.task(pieces[self.order(number)], number)
            tokens += task.ids.shape[1]
            last = number == start + options.batch - 1
            with nullcontext() if last else accelerator.no_sync(self.module):
                terms = lesson.losses(task, self.module(task))
                accelerator.backward(terms["loss"] / options.batch)
            sums = {name: sums.get(name, 0.0) + term.detach() / options.batch for name, term in terms.items()}
        accelerator.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        counts = torch.tensor([float(tokens)], device=accelerator.device)
        values = torch.stack(list(sums.values()))
        if accelerator.num_processes > 1:
            counts, values = accelerator.reduce(counts), accelerator.reduce(values, "mean")
        self.report.steps += 1
        self.report.tokens += int(counts)
        losses = dict(zip(sums, values.tolist(), strict=True))
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return losses

    def _share(self, begun: float) -> float:
        """Of the steps or the time; all processes go by the first one's clock."""
        if self.options.steps is not None:
            return self.report.steps / self.options.steps
        share = torch.tensor((time.perf_counter() - begun) / (60 * self.options.minutes))
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            share = broadcast(share.to(self.accelerator.device)).cpu()
        return float(share)

    def _evaluate(self, begun: float, **said: float) -> None:
        """Score, and keep the state if it is the best."""
        model = self.student.model
        model.eval()
        held_out, other = (
            score_text(model, self.student.encode, self.student.prefix, pieces).bits_per_byte for pieces in self.scored
        )
        model.train()
        self.report.seconds = time.perf_counter() - begun
        since = self.report.steps - (self.report.curve[-1]["step"] if self.report.curve else 0)
        losses = {name: total / since for name, total in self.sums.items()} if since else {}
        self.sums = {}
        entry = {
            "step": self.report.steps, "minutes": round(self.report.seconds / 60, 3), "held_out": held_out,
            "other": other, **losses, **said,
        }  # fmt: skip
        self.report.curve.append(entry)
        if not self.report.best or held_out < self.report.best["held_out"]:
            self.report.best = entry
            self.best = {name: p.detach().clone() for name, p in self.parameters().items()}

    def _save(self, state: SavedState) -> None:
        report = self.report
        state.save(
            {
                "report": {n: getattr(report, n) for n in ("steps", "tokens", "seconds", "curve", "best")},
                "sums": self.sums,
                "best": self.best,
                "last": self.last.state(),
                "parameters": {name: p.detach() for name, p in self.parameters().items()},
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def _resume(self, state: SavedState) -> float:
        """Load a saved state; the seconds that it had taken."""
        content = self._loaded(state) if self.options.diloco is None else None
        if content is None:
            return 0.0
        for name, value in content["report"].items():
            setattr(self.report, name, value)
        log.warning("going on from step %d, saved in %s", self.report.steps, state.path)
        self.best, self.sums = content["best"], content["sums"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.last.load(content["last"])
        self._put(content["parameters"])
        return float(self.report.seconds)

    def _loaded(self, state: SavedState) -> dict[str, Any] | None:
        """What the first process saved, which others may not see: they can be on other machines."""
        accelerator = self.accelerator
        content = [state.load(torch.device("cpu")) if accelerator.is_main_process else None]
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(content)
        return content[0]
