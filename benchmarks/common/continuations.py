"""How likely a model finds given continuations: the ground of multiple choice and last-word tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Continuation", "Question", "answer", "score_continuations"]

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One continuation, scored behind its context.

    Attributes:
        nats: Negative log-likelihood.
        n_bytes: UTF-8 bytes.
        greedy: Whether every one of its tokens is the most likely one.
    """

    nats: float
    n_bytes: int
    greedy: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A question with choices, one of which is right."""

    context: str
    choices: tuple[str, ...]
    gold: int


def score_continuations(
    model: Any,
    encode: Encode,
    prefix: int | None,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int = 2048,
    tell: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Score (context, continuation) pairs. Both are tokenized as one text, as a user would.

    Args:
        model: A causal language model.
        encode: Text to ids, without special tokens.
        prefix: Id that every text starts with, if any.
        pairs: A continuation usually begins with a space.
        batch_tokens: Tokens run at a time, padding included.
        tell: Called with the number of pairs done after each batch.
    """
    start = [] if prefix is None else [prefix]
    rows = []
    for context, continuation in pairs:
        whole = start + encode(context + continuation)
        rows.append((whole, _first(start + encode(context), whole)))
    taken = frozenset(inspect.signature(model.forward).parameters)
    scores: list[Continuation | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    done = 0
    while done < len(order):
        some = order[done : done + 1]
        while done + len(some) < len(order):
            longest = len(rows[order[done + len(some)]][0])
            if longest * (len(some) + 1) > batch_tokens:
                break
            some.append(order[done + len(some)])
        batch = [rows[i] for i in some]
        for i, (nats, greedy) in zip(some, _run(model, batch, taken), strict=True):
            scores[i] = Continuation(nats, len(pairs[i][1].encode()), greedy)
        done += len(some)
        if tell is not None:
            tell(done)
    return [score for score in scores if score is not None]


def answer(question: Question, scores: Sequence[Continuation]) -> bool:
    """Whether the choice with the highest likelihood per byte is the right one; the space before it does not count."""
    lengths = [max(1, len(choice.strip().encode())) for choice in question.choices]
    return min(range(len(scores)), key=lambda i: scores[i].nats / lengths[i]) == question.gold


def _first(context: list[int], whole: list[int]) -> int:
    """Where the continuation begins: a token that joins it to the context counts as part of it.

    There is at least one token to predict from, and one to predict.
    """
    pairs = zip(context, whole, strict=False)
    common = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(context), len(whole)))
    return min(max(common, 1), len(whole) - 1)


def _run(model: Any, batch: list[tuple[list[int], int]], taken: frozenset[str]) -> list[tuple[float, bool]]:
    """Padded on the left, so that the ends, where the continuations are, lie beside each other."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(batch):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    tail = max(len(tokens) - first for tokens, first in batch)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
    }
    if "position_ids" not in taken:
        del inputs["position_ids"]
    keep = {"logits_to_keep": tail + 1} if "logits_to_keep" in taken else {}
    with torch.inference_mode():
        logits = model(**{name: value.to(model.device) for name, value in inputs.items()}, **keep).logits
        logits = logits[:, -tail - 1 : -1].float()
        gold = ids[:, -tail:].to(logits.device)
        nats = torch.logsumexp(logits, dim=-1) - logits.gather(2, gold[:, :, None])[:, :, 0]
        right = logits.argmax(dim=-1) == gold
    found = []
    for row, (tokens, first) in enumerate(batch):
        length = len(tokens) - first
        found.append((float(nats[row, -length:].double().sum()), bool(right[row, -length:].all())))
    return found
