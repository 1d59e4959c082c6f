"""Train a draft to believe what its target believes, on texts that the target wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.drafting.options import MakeDraftOptions
from tokensurgeon.evaluation.acceptance import Agreement, Written, agree
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.healing.lora import add_lora, updates_of
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
    tell: Callable[[float], None] | None = None,
) -> Learnt:
    """Train rows and low-rank updates for some minutes, and give the best state by acceptance on held-out texts.

    The loss is the divergence of the draft's next-token distribution from the target's, as far as that was kept, at all
    positions that the target wrote (arXiv 2310.08461).

    Args:
        draft: Is changed.
        opened: Its files.
        written: Texts to learn from.
        held_out: Texts to choose the state by.
        minutes: How long.
        options: See `MakeDraftOptions`.
        tell: Called with the share done after every update.

    Raises:
        InputError: As `add_lora` does.
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
    names = add_lora(model, options.lora, opened) if options.lora else {}
    put_in_front(model, trained)
    groups = parameter_groups(model, trained, options.learning_rate, options.lora_learning_rate)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    rates = [float(group["lr"]) for group in groups]

    learnt, begun, steps = Learnt(ids), time.perf_counter(), 0
    parameters = [p for group in groups for p in group["params"]]
    best = _evaluated(learnt, draft, held_out, silenced, begun, steps)
    state = [p.detach().clone() for p in parameters]
    order = np.random.default_rng(options.seed)
    queue: list[int] = []
    while (share := (time.perf_counter() - begun) / (60 * minutes)) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, 20 * share + 0.05) * (1 - share)
        if len(queue) < options.batch:
            queue += order.permutation(len(written)).tolist()
        some, queue = queue[: options.batch], queue[options.batch :]
        for number in some:  # one at a time: logits are large, and lengths differ
            (divergence(model, written[number], silenced) / len(some)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if share * _EVALUATIONS >= len(learnt.curve):
            now = _evaluated(learnt, draft, held_out, silenced, begun, steps)
            if _better(now, best):
                best, state, learnt.steps = now, [p.detach().clone() for p in parameters], steps
        if tell is not None:
            tell(share)
    if learnt.curve[-1]["step"] != steps and _better(_evaluated(learnt, draft, held_out, silenced, begun, steps), best):
        state, learnt.steps = [p.detach().clone() for p in parameters], steps
    with torch.no_grad():
        for parameter, value in zip(parameters, state, strict=True):
            parameter.copy_(value)
    learnt.rows = {name: t.rows.detach().cpu() for name, t in trained.items()}
    learnt.body = updates_of(model, names)
    return learnt


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
    every = logits.log_softmax(dim=-1)
    logs, dead = every.gather(1, likely), torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    dead[silenced.to(logits.device)] = True
    alive = 1 - every[:, dead].exp().sum(dim=1) - (logs.exp() * ~dead[likely]).sum(dim=1)  # of what was not kept
    rest, mine = (1 - wanted.sum(dim=1)).clamp(min=1e-6), alive.clamp(min=1e-6)
    inside = (wanted * (wanted.clamp(min=1e-9).log() - logs)).sum(dim=1)
    whole: torch.Tensor = (inside + rest * (rest.log() - mine.log())).mean()
    return whole


def _better(now: Agreement, best: Agreement) -> bool:
    """Accepted more often, and with next to nothing on ids that nobody reads: more would be refused as written."""
    return now.overlap > best.overlap and now.dead < max(DEAD_MASS_LIMIT / 4, best.dead)


def _evaluated(
    learnt: Learnt, draft: LoadedModel, held_out: Sequence[Written], silenced: torch.Tensor, begun: float, step: int
) -> Agreement:
    found = agree(draft, held_out, silenced)
    learnt.curve.append(
        {
            "step": step,
            "minutes": round((time.perf_counter() - begun) / 60, 3),
            "greedy": found.greedy,
            "overlap": found.overlap,
            "dead": found.dead,
        }
    )
    return found
