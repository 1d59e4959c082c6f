"""Train in steps, evaluate, and keep the best state."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.average import LastStates
from tokensurgeon.healing.batches import Piece
from tokensurgeon.healing.course import Course, HealProgress
from tokensurgeon.healing.diloco import Groups
from tokensurgeon.healing.lesson import Answer, Task
from tokensurgeon.healing.objective import Asked
from tokensurgeon.healing.options import TrainingOptions
from tokensurgeon.healing.order import Order
from tokensurgeon.healing.resume import SavedState
from tokensurgeon.healing.schedule import schedule_of
from tokensurgeon.healing.trained_rows import TrainedRows, parameter_groups

__all__ = ["Loop", "Teaching"]

log = logging.getLogger(__name__)

_SAVE_S = 60.0


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
        self.accelerator, self.options = accelerator, options
        self.course, self.order, self.factor = Course(options, student, scored), order, schedule_of(options)
        self.last = LastStates(options.average or 0)
        own = [t.rows for t in trained.values()]
        groups = parameter_groups(student.model, trained, options.learning_rate, options.body_rate)
        self.rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
        self.module, self.optimizer = accelerator.prepare(_Student(student.model), optimizer)
        self.report = self.course.report
        self.report.rows = len(own[0]) if own[0].requires_grad else 0

    def train(
        self,
        pieces: Sequence[Piece],
        lesson: Teaching,
        state: SavedState,
        progress: HealProgress | None,
        alike: Mapping[str, str] | None = None,
    ) -> None:
        """Go on from a saved state, or begin; to the end of the steps or minutes, and to the best state.

        Args:
            pieces: What is trained on.
            lesson: What sets tasks about them.
            state: Where a training that is interrupted is kept.
            progress: Called with (share done, report so far, last losses), by the first process.
            alike: By name, digests of what all groups that train together must have the same.
        """
        writes, course = self.accelerator.is_main_process, self.course
        course.begin(self._resume(state))
        try:
            with self._groups(alike or {}) as groups:
                self._steps(pieces, state, progress, lesson, groups)
        finally:
            if writes and self.report.steps and self.options.diloco is None:
                self._save(state)
        course.end()
        if self.options.average is not None:
            self.last.see(1.0, course.parameters())
            course.put(self.last.mean())
            course.evaluate(averaged=float(self.last.taken))
        course.put(course.best)

    def _steps(
        self,
        pieces: Sequence[Piece],
        state: SavedState,
        progress: HealProgress | None,
        lesson: Teaching,
        groups: Groups | None,
    ) -> None:
        """Update to the end; with groups, evaluate where they are alike, and save nothing: they have each other."""
        writes, saved = self.accelerator.is_main_process, time.perf_counter()
        while (share := self._share()) < 1:
            self.last.see(share, self.course.parameters())
            if writes and groups is None and time.perf_counter() - saved > _SAVE_S:
                self._save(state)
                saved = time.perf_counter()
            losses = self._update(pieces, share, lesson)
            if groups is not None:
                self.report.steps = groups.stepped()
                share = self.course.share(max(self.report.steps - 1, 0))  # of a state that was taken over meanwhile
                tokens = max(self.report.tokens, 1)
                self.report.sent = {"bytes": groups.sent / tokens, "at_every_step": groups.plain / tokens}
            self.course.stepped(losses)
            if writes and progress is not None:
                progress(share, self.report, losses)
            if self.course.due(share) and (groups is None or groups.together):
                self.course.evaluate()

    def _groups(self, alike: Mapping[str, str]) -> AbstractContextManager[Groups | None]:
        if self.options.diloco is None:
            return nullcontext()

        def state() -> dict[str, Any]:
            return {
                "curve": self.report.curve,
                "best": self.report.best,
                "state": course.best,
                "parameters": {name: p.detach().clone() for name, p in course.parameters().items()},
                "optimizer": inner.state_dict(),
            }

        def load(content: dict[str, Any]) -> None:
            log.warning("taking over the state of another group")
            self.report.curve, self.report.best, course.best = content["curve"], content["best"], content["state"]
            inner.load_state_dict(content["optimizer"])
            course.put(content["parameters"])

        inner, course = self.optimizer.optimizer, self.course
        return Groups(self.accelerator, course.parameters(), inner, self.options.diloco, alike, state, load)

    def _update(self, pieces: Sequence[Piece], share: float, lesson: Teaching) -> dict[str, float]:
        options, accelerator = self.options, self.accelerator
        factor = self.factor(share)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        start = (self.report.steps * accelerator.num_processes + accelerator.process_index) * options.batch
        sums: dict[str, torch.Tensor] = {}
        seen = Counter[str]()
        for number in range(start, start + options.batch):
            task = lesson.task(pieces[self.order(number)], number)
            seen.update({name: len(wanted.place) for name, wanted in task.targets.items()}, tokens=task.ids.shape[1])
            last = number == start + options.batch - 1
            with nullcontext() if last else accelerator.no_sync(self.module):
                terms = lesson.losses(task, self.module(task))
                accelerator.backward(terms["loss"] / options.batch)
            sums = {name: sums.get(name, 0.0) + term.detach() / options.batch for name, term in terms.items()}
        accelerator.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        counts = torch.tensor([float(n) for n in seen.values()], device=accelerator.device)
        values = torch.stack(list(sums.values()))
        if accelerator.num_processes > 1:
            counts, values = accelerator.reduce(counts), accelerator.reduce(values, "mean")
        self.report.steps += 1
        own = {name: int(n) for name, n in zip(seen, counts.tolist(), strict=True)}
        self.report.tokens += own.pop("tokens")
        for name, n in own.items():
            self.report.positions[name] = self.report.positions.get(name, 0) + n
        return dict(zip(sums, values.tolist(), strict=True))

    def _share(self) -> float:
        """Of the steps or the time; all processes go by the first one's clock."""
        share = self.course.share(self.report.steps)
        if self.options.steps is not None or self.accelerator.num_processes == 1:
            return share
        from accelerate.utils import broadcast

        return float(broadcast(torch.tensor(share).to(self.accelerator.device)).cpu())

    def _save(self, state: SavedState) -> None:
        report = self.report
        state.save(
            {
                "report": {n: getattr(report, n) for n in ("steps", "tokens", "positions", "seconds", "curve", "best")},
                "sums": self.course.sums,
                "best": self.course.best,
                "last": self.last.state(),
                "parameters": {name: p.detach() for name, p in self.course.parameters().items()},
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
        self.course.best, self.course.sums = content["best"], content["sums"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.last.load(content["last"])
        self.course.put(content["parameters"])
        return float(self.report.seconds)

    def _loaded(self, state: SavedState) -> dict[str, Any] | None:
        """What the first process saved, which others may not see: they can be on other machines."""
        accelerator = self.accelerator
        content = [state.load(torch.device("cpu")) if accelerator.is_main_process else None]
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(content)
        return content[0]
