"""Score a model by bits per byte: a loss that can be compared across tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from tokensurgeon.evaluation.context import Encode, context_of, inputs_of
from tokensurgeon.evaluation.logits import log_normaliser

__all__ = ["TextScore", "score_text"]


@dataclass(slots=True)
class TextScore:
    """Sums over one text.

    Attributes:
        n_bytes: UTF-8 bytes scored.
        nats: Negative log-likelihood of them.
        groups: Name of a group of gold tokens (``shared``, ``new``) to (tokens, nats).
        mass: Mean probability on the ids to watch (unreachable, padding); None where none are watched.
        positions: Predictions made.
    """

    n_bytes: int = 0
    nats: float = 0.0
    groups: dict[str, tuple[int, float]] = field(default_factory=dict)
    mass: float | None = None
    positions: int = 0

    @property
    def bits_per_byte(self) -> float:
        """Negative log2-likelihood over UTF-8 bytes."""
        return self.nats / math.log(2) / max(1, self.n_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "bits_per_byte": self.bits_per_byte,
            "bytes": self.n_bytes,
            "tokens": self.positions,
            "groups": {
                name: {"tokens": count, "nats_per_token": nats / max(1, count)}
                for name, (count, nats) in self.groups.items()
            },
            "dead_mass": self.mass,
        }


def score_text(
    model: Any,
    encode: Encode,
    prefix: int | None,
    pieces: Iterable[str],
    *,
    groups: dict[str, torch.Tensor] | None = None,
    watched: torch.Tensor | None = None,
    log_weights: torch.Tensor | None = None,
    tell: Callable[[], None] | None = None,
) -> TextScore:
    """Score pieces of text, each on its own behind the prefix token.

    Args:
        model: A causal language model.
        encode: Text to ids, without special tokens.
        prefix: Id that every piece starts with (BOS, or EOS where there is none). Without one the
            first token of a piece is not scored, and its bytes are still counted.
        pieces: Texts. One that exceeds the model's context is halved until its parts fit, each scored on its own.
        groups: Name to a (vocab,) bool mask, to split the loss by gold token.
        watched: (n,) int64 ids whose probability is to be summed.
        log_weights: (vocab,) float32 log of how many tokens each row stands for: log 50 where one row was drawn from
            50 and takes probability for all of them, -inf for rows that must take none. By default all stand for one.
        tell: Called after each piece.
    """
    total = TextScore(groups=dict.fromkeys(groups or {}, (0, 0.0)))
    mass = 0.0
    weights = None if log_weights is None else log_weights.to(model.device)
    context = context_of(model)
    for piece in pieces:
        for part, ids in inputs_of(encode, prefix, piece, context):
            total.n_bytes += len(part.encode())
            if len(ids) < 2:
                continue  # nothing is predicted; as for every first token without a prefix, its bytes count
            tokens = torch.tensor([ids], device=model.device)
            with torch.inference_mode():
                logits = model(input_ids=tokens).logits[0, :-1]
                normaliser = log_normaliser(logits if weights is None else logits + weights)
                gold = tokens[0, 1:]
                nats = normaliser - logits.gather(1, gold[:, None])[:, 0].float()
                if watched is not None and len(watched):
                    mass += float((log_normaliser(logits[:, watched]) - normaliser).exp().sum())
            total.nats += float(nats.cpu().double().sum())
            total.positions += len(gold)
            for name, mask in (groups or {}).items():
                inside = mask[gold.cpu()]
                count, before = total.groups[name]
                total.groups[name] = (
                    count + int(inside.sum()),
                    before + float(nats.cpu().double()[inside].sum()),
                )
        if tell is not None:
            tell()
    if watched is not None:
        total.mass = mass / max(1, total.positions)
    return total
