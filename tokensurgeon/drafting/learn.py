"""Train a draft to believe what its target believes, on texts that the target wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.drafting.options import MakeDraftOptions
from tokensurgeon.drafting.state import DraftState
from tokensurgeon.evaluation.acceptance import Agreement, Written, agree
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.batches import nth_piece
from tokensurgeon.healing.lora import add_lora, lora_layers, updates_of
from tokensurgeon.healing.trained_rows import TrainedRows, parameter_groups, put_in_front
from tokensurgeon.verification.running import DEAD_MASS_LIMIT

__all__ = ["Learnt", "divergence", "learn"]

_EVALUATIONS = 4


@dataclass(slots=True)
class Learnt:
    """What came out of it.

    Attributes:
        ids: (n,) int64, the rows that were trained.
        rows: By matrix (``embedding``, ``head``): (n, dim) these rows.
        body: By tensor of the checkpoint: what is added to it.
        steps: Updates made until the state that is kept; 0 where none was better than the start.
        curve: ``step``, ``minutes``, and ``greedy``, ``overlap`` and ``dead`` (see `Agreement`) of every evaluation.
    """

    ids: torch.Tensor
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    body: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def learn(
    draft: LoadedModel,
    opened: OpenModel,
    written: Sequence[Written],
    held_out: Sequence[Written],
    minutes: float,
    options: MakeDraftOptions,
    state: DraftState | None = None,
    tell: Callable[[float], None] | None = None,
) -> Learnt:
    """Train rows and low-rank updates for some minutes, and give the best state by acceptance on held-out texts.

    The loss is the divergence of the draft's next-token distribution from the target's, as far as that was kept, at all
    positions whose beliefs were (arXiv 2310.08461).

    Args:
        draft: Is changed.
        opened: Its files.
        written: Texts to learn from.
        held_out: Texts to choose the state by.
        minutes: How long.
        options: See `MakeDraftOptions`.
        state: Where to save, and what to go on from.
        tell: Called with the share done after every update.

    Raises:
        InputError: As `lora_layers` does.
    """
    model: Any = draft.model
    if next(model.parameters()).dtype == torch.float16:  # in which gradients vanish
        model.to(torch.bfloat16)
    torch.manual_seed(options.seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    used = {i for text in written for i in (*text.ids, *text.likely[:, 0].tolist())}
    silenced = torch.from_numpy(Manifest.of_output(opened.directory).plan.silenced)
    used -= {*silenced.tolist()}
    ids = torch.tensor(sorted(used), dtype=torch.int64)
    trained = TrainedRows.of(model, ids.to(model.device))
    names = add_lora(model, options.lora, lora_layers(model, options.lora, opened)) if options.lora else {}
    put_in_front(model, trained)
    groups = parameter_groups(model, trained, options.learning_rate, options.lora_learning_rate)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    parameters = [p for group in groups for p in group["params"]]
    rates = [float(group["lr"]) for group in groups]

    training = _Training.begun(parameters, optimizer, state)
    learnt = Learnt(ids, curve=training.curve)
    begun = time.perf_counter() - training.seconds

    def evaluate() -> None:
        found = agree(draft, held_out, silenced)
        if training.best is None or _better(found, training.best):
            training.best, training.kept = found, training.steps
            training.state = [p.detach().clone() for p in parameters]
        minutes_so_far = round((time.perf_counter() - begun) / 60, 3)
        told = {"greedy": found.greedy, "overlap": found.overlap, "dead": found.dead}
        training.curve.append({"step": training.steps, "minutes": minutes_so_far, **told})

    if training.best is None:
        evaluate()
    try:
        while (share := (time.perf_counter() - begun) / (60 * minutes)) < 1:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, 20 * share + 0.05) * (1 - share)
            for place in range(training.steps * options.batch, (training.steps + 1) * options.batch):
                text = written[nth_piece(len(written), place, options.seed)]  # one at a time: logits are large
                loss = divergence(model, text, silenced) / options.batch
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            training.steps += 1
            if share * _EVALUATIONS >= len(training.curve):
                evaluate()
            if tell is not None:
                tell(share)
            training.seconds = time.perf_counter() - begun
            training.save(parameters, optimizer, state)
    finally:
        training.seconds = time.perf_counter() - begun
        training.save(parameters, optimizer, state, now=True)
    if training.curve[-1]["step"] != training.steps:
        evaluate()
        training.save(parameters, optimizer, state, now=True)
    with torch.no_grad():
        for parameter, value in zip(parameters, training.state, strict=True):
            parameter.copy_(value)
    learnt.steps = training.kept
    learnt.rows = {name: t.rows.detach().cpu() for name, t in trained.items()}
    learnt.body = updates_of(model, names)
    return learnt


@dataclass(slots=True)
class _Training:
    """How far it got.

    Attributes:
        steps: Updates made.
        kept: Of the best state.
        seconds: Spent.
        curve: See `Learnt`.
        best: What the best state does; None before the first evaluation.
        state: Its parameters.
    """

    steps: int = 0
    kept: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    best: Agreement | None = None
    state: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def begun(
        cls, parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, state: DraftState | None
    ) -> _Training:
        """Go on from what was saved, or begin."""
        saved = state.training if state is not None else None
        if saved is None:
            return cls()
        with torch.no_grad():
            for parameter, value in zip(parameters, saved["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        best = Agreement([], *saved["best"])
        return cls(saved["steps"], saved["kept"], saved["seconds"], saved["curve"], best, saved["state"])

    def save(
        self,
        parameters: Sequence[torch.Tensor],
        optimizer: torch.optim.Optimizer,
        state: DraftState | None,
        *,
        now: bool = False,
    ) -> None:
        """Keep it, if there is anything to keep it in."""
        if state is None or self.best is None:
            return
        state.training = {
            "steps": self.steps, "kept": self.kept, "seconds": self.seconds, "curve": [*self.curve],
            "best": [self.best.overlap, self.best.dead], "state": self.state,
            "parameters": [p.detach() for p in parameters], "optimizer": optimizer.state_dict(),
        }  # fmt: skip
        state.save(now=now)


def divergence(model: Any, text: Written, silenced: torch.Tensor) -> torch.Tensor:
    """Mean over positions of the divergence from what the target believed; all that was not kept counts as one token.

    Args:
        model: The draft.
        text: Read by both.
        silenced: (n,) int64 ids that are to take no probability, whose rows nothing trains.
    """
    ids = torch.tensor([text.ids], device=model.device)
    logits = model(input_ids=ids).logits[0, text.start - 1 : -1].float()
    wanted, likely = text.probability.to(logits.device), text.likely.to(logits.device)
    dead = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    dead[silenced.to(logits.device)] = True
    top = logits.detach().amax(dim=-1, keepdim=True)  # with it a sum of exponentials is four times as fast
    normaliser = top + (logits - top).exp().sum(dim=-1, keepdim=True).log()
    logs = logits.gather(1, likely) - normaliser
    taken = (logits[:, dead] - normaliser).exp().sum(dim=1)
    alive = 1 - taken - (logs.exp() * ~dead[likely]).sum(dim=1)  # of what was not kept
    rest, mine = (1 - wanted.sum(dim=1)).clamp(min=1e-6), alive.clamp(min=1e-6)
    inside = (wanted * (wanted.clamp(min=1e-9).log() - logs)).sum(dim=1)
    whole: torch.Tensor = (inside + rest * (rest.log() - mine.log())).mean()
    return whole


def _better(now: Agreement, best: Agreement) -> bool:
    """Accepted more often, and with next to nothing on ids that nobody reads: more would be refused as written."""
    return now.overlap > best.overlap and now.dead < max(DEAD_MASS_LIMIT / 4, best.dead)
