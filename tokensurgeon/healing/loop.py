"""Train in steps, evaluate, and keep the best state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.healing.batches import Piece, nth_piece
from tokensurgeon.healing.lesson import Answer, Lesson, Task
from tokensurgeon.healing.objective import Asked
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.resume import SavedState
from tokensurgeon.healing.trained_rows import TrainedRows, parameter_groups

__all__ = ["HealProgress", "HealReport", "Loop"]

log = logging.getLogger(__name__)

_EVALUATIONS = 5
_WARM_UP = 0.05
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
    """

    out: Path | None = None
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rows: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)


HealProgress = Callable[[float, HealReport, dict[str, float]], None]
"""Called with (share done, report so far, last losses)."""


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
        options: HealOptions,
        student: LoadedModel,
        trained: dict[str, TrainedRows],
        scored: tuple[Sequence[str], Sequence[str]],
    ) -> None:
        """Prepare what is trained: rows that require gradients, and whatever else of the student does.

        Args:
            accelerator: accelerate's.
            options: See `HealOptions`.
            student: With trained rows in front.
            trained: The rows.
            scored: Held-out text, and text of another kind.
        """
        self.accelerator, self.options, self.student = accelerator, options, student
        self.scored = scored
        own = [t.rows for t in trained.values()]
        groups = parameter_groups(student.model, trained, options.learning_rate, options.lora_learning_rate)
        self.rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        self.module, self.optimizer = accelerator.prepare(_Student(student.model), optimizer)
        self.report = HealReport(rows=len(own[0]) if own[0].requires_grad else 0)
        self.best: dict[str, torch.Tensor] = {}
        self.sums: dict[str, float] = {}

    def parameters(self) -> dict[str, torch.Tensor]:
        """What is trained, by name."""
        return {name: p for name, p in self.student.model.named_parameters() if p.requires_grad}

    def train(self, pieces: Sequence[Piece], lesson: Lesson, state: SavedState, progress: HealProgress | None) -> None:
        """Go on from a saved state, or begin; to the end of the steps or minutes, and to the best state."""
        writes = self.accelerator.is_main_process
        begun = time.perf_counter() - self._resume(state)
        saved = time.perf_counter()
        if not self.report.curve:
            self._evaluate(begun)
        try:
            while (share := self._share(begun)) < 1:
                if writes and time.perf_counter() - saved > _SAVE_S:
                    self._save(state)
                    saved = time.perf_counter()
                losses = self._update(pieces, share, lesson)
                self.report.seconds = time.perf_counter() - begun
                if writes and progress is not None:
                    progress(share, self.report, losses)
                if share * _EVALUATIONS >= len(self.report.curve):
                    self._evaluate(begun)
        finally:
            if writes and self.report.steps:
                self._save(state)
        if self.report.curve[-1]["step"] != self.report.steps:
            self._evaluate(begun)
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(self.best[name])

    def _update(self, pieces: Sequence[Piece], share: float, lesson: Lesson) -> dict[str, float]:
        options, accelerator = self.options, self.accelerator
        factor = share / _WARM_UP if share < _WARM_UP else 1 - (share - _WARM_UP) / (1 - _WARM_UP)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * max(factor, 0.01)
        start = (self.report.steps * accelerator.num_processes + accelerator.process_index) * options.batch
        sums: dict[str, torch.Tensor] = {}
        tokens = 0
        for number in range(start, start + options.batch):
            task = lesson.task(pieces[nth_piece(len(pieces), number, options.seed)], number)
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

    def _evaluate(self, begun: float) -> None:
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
            "other": other, **losses,
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
                "parameters": {name: p.detach() for name, p in self.parameters().items()},
                "optimizer": self.optimizer.state_dict(),
            }
        )

    def _resume(self, state: SavedState) -> float:
        """Load a saved state; the seconds that it had taken."""
        content = state.load(self.accelerator.device)
        if content is None:
            return 0.0
        for name, value in content["report"].items():
            setattr(self.report, name, value)
        log.warning("going on from step %d, saved in %s", self.report.steps, state.path)
        self.best, self.sums = content["best"], content["sums"]
        self.optimizer.load_state_dict(content["optimizer"])
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(content["parameters"][name])
        return float(self.report.seconds)
