"""Say how much worse a transplanted model predicts text than its base, and at what.

The same bytes are scored three times: by the base in its own tokenization; by the base made to read the donor's tokens,
each as the equal token of its own or as its pieces; by the transplant. What the second loses is the foreign
segmentation, which no row can mend; what the third loses beside it are rows. Between two places at which both
tokenizations meet stands a unit: a token of the base that the donor has whole, one that it splits, several that it
joins, or a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.evaluation.context import context_of
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.logits import log_normaliser
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.meeting import meeting_points, token_bytes

__all__ = ["BasePiece", "Unit", "describe_loss", "read_base", "score_ids", "units_of"]

_BLOCK = 12
"""Units that count as one draw of text, for the interval."""
_COSTLIEST = 20


@dataclass(frozen=True, slots=True)
class BasePiece:
    """A piece of text as the base reads it, and the donor's tokens of it.

    Attributes:
        n_bytes: Of the text.
        base: (tokens of the base) ids.
        base_nats: What each costs the base.
        donor: (tokens of the donor) ids.
        forced_nats: What each of these costs the base, made to read them.
        meet: Indices of the last tokens read of both at every place where both have read the same bytes.
    """

    n_bytes: int
    base: list[int]
    base_nats: list[float]
    donor: list[int]
    forced_nats: list[float]
    meet: tuple[list[int], list[int]]


@dataclass(frozen=True, slots=True)
class Unit:
    """What stands between two meetings.

    Attributes:
        kind: ``whole``, ``split``, ``joined`` or ``mixed``.
        n_bytes: Of it, in the donor's tokens.
        donor: The donor's ids.
        base: Nats of the base's own tokens.
        forced: (donor's tokens) nats of the base, made to read them.
        transplant: (donor's tokens) nats.
    """

    kind: str
    n_bytes: int
    donor: tuple[int, ...]
    base: float
    forced: tuple[float, ...]
    transplant: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Nats that the transplant needs more than the base."""
        return sum(self.transplant) - self.base


def score_ids(
    model: Any, prefix: int | None, ids: Sequence[int], watched: torch.Tensor | None = None
) -> tuple[list[float], float]:
    """What each token costs, behind a prefix; the first one nothing where there is no prefix.

    Args:
        model: A causal language model.
        prefix: Id that texts start with.
        ids: Of the text.
        watched: (n,) int64 ids whose probability is summed.

    Returns:
        Nats by token, and the watched ids' probability, summed over predictions.
    """
    before = [] if prefix is None else [prefix]
    tokens = torch.tensor([[*before, *ids]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits[0, :-1]
        normaliser = log_normaliser(logits)
        nats = normaliser - logits.gather(1, tokens[0, 1:, None])[:, 0].float()
        mass = 0.0
        if watched is not None and len(watched):
            mass = float((log_normaliser(logits[:, watched]) - normaliser).exp().sum())
    found: list[float] = nats.double().tolist()
    return (found if before else [0.0, *found]), mass


def read_base(
    loaded: LoadedModel,
    sides: tuple[Vocabulary, Vocabulary],
    spelled: Callable[[Sequence[int]], list[list[int]]],
    pieces: Sequence[str],
) -> list[BasePiece]:
    """Let the base read text twice. Pieces beyond its context, or that it cannot spell, are left out.

    Args:
        loaded: The base.
        sides: Its vocabulary and the donor's.
        spelled: Gives the base's ids for each of some of the donor's.
        pieces: Text.
    """
    left, right = (token_bytes(side) for side in sides)
    context = context_of(loaded.model)
    found = []
    for piece in pieces:
        ids, theirs = loaded.encode(piece), sides[1].encode(piece)
        cut = spelled(theirs)
        forced = [i for token in cut for i in token]
        if not ids or not theirs or not all(cut) or (context is not None and max(len(ids), len(forced)) >= context):
            continue
        nats, _ = score_ids(loaded.model, loaded.prefix, ids)
        each, place = score_ids(loaded.model, loaded.prefix, forced)[0], 0
        forced_nats = []
        for token in cut:
            forced_nats.append(sum(each[place : place + len(token)]))
            place += len(token)
        meet = meeting_points([left[i] for i in ids], [right[i] for i in theirs])
        found.append(BasePiece(len(piece.encode()), ids, nats, theirs, forced_nats, meet))
    return found


def units_of(piece: BasePiece, transplant: Sequence[float], lengths: Sequence[int]) -> Iterator[Unit]:
    """A piece, unit by unit; what comes behind the last meeting is one too.

    Args:
        piece: As the base reads it.
        transplant: (tokens of the donor) nats of the transplant.
        lengths: Bytes of every id of the donor.
    """
    here = there = 0
    ends = [*zip(*piece.meet, strict=True), (len(piece.base) - 1, len(piece.donor) - 1)]
    for i, j in ends:
        base, donor = piece.base_nats[here : i + 1], piece.donor[there : j + 1]
        if base or donor:
            shape = min(len(base), 2), min(len(donor), 2)
            kind = {(1, 1): "whole", (1, 2): "split", (2, 1): "joined"}.get(shape, "mixed")
            yield Unit(
                kind,
                sum(lengths[token] for token in donor),
                tuple(donor),
                sum(base),
                tuple(piece.forced_nats[there : j + 1]),
                tuple(transplant[there : j + 1]),
            )
        here, there = i + 1, j + 1


def describe_loss(
    units: Sequence[Unit], n_bytes: int, new: Callable[[int], bool], describe: Callable[[int], str]
) -> dict[str, Any]:
    """The loss in bits per byte, split in three ways.

    Args:
        units: Of all pieces, in order.
        n_bytes: Of the text.
        new: Whether one of the donor's ids was not the base's.
        describe: The donor's token for people.

    Returns:
        ``bits_per_byte`` of base, forced base and transplant; ``loss`` with half of the width of its 95% interval
        (``interval``, None for too little text), of which ``segmentation``, ``new`` and ``shared`` tokens are parts;
        ``units`` by kind, each with its share of the loss; for split ones ``first_nats`` and ``inside_nats`` a token;
        ``costliest`` tokens.
    """
    bits = 1 / (math.log(2) * max(1, n_bytes))
    base, forced, after = (
        sum(unit.base for unit in units), sum(sum(unit.forced) for unit in units),
        sum(sum(unit.transplant) for unit in units),
    )  # fmt: skip
    rows = {True: 0.0, False: 0.0}
    for unit in units:
        for token, one, other in zip(unit.donor, unit.forced, unit.transplant, strict=True):
            rows[new(token)] += other - one
    split = [unit for unit in units if unit.kind == "split"]
    deviation = _deviation([unit.loss for unit in units])
    inside = [nats for unit in split for nats in unit.transplant[1:]]
    return {
        "bytes": n_bytes,
        "bits_per_byte": {"base": base * bits, "forced": forced * bits, "transplant": after * bits},
        "loss": (after - base) * bits,
        "interval": None if deviation is None else 1.96 * deviation * bits,
        "segmentation": (forced - base) * bits,
        "new": rows[True] * bits,
        "shared": rows[False] * bits,
        "units": {
            kind: {
                "count": sum(unit.kind == kind for unit in units),
                "loss": sum(unit.loss for unit in units if unit.kind == kind) * bits,
            }
            for kind in ("whole", "split", "joined", "mixed")
        },
        "split": {
            "first_nats": _mean([unit.transplant[0] for unit in split]),
            "inside_nats": _mean(inside),
            "inside_tokens": len(inside),
            "base_nats": _mean([unit.base for unit in split]),
        },
        "costliest": _costliest(units, bits, describe),
    }


def _costliest(units: Sequence[Unit], bits: float, describe: Callable[[int], str]) -> list[Mapping[str, Any]]:
    """Units by what all of them with the same tokens lose."""
    lost: dict[tuple[int, ...], list[float]] = {}
    for unit in units:
        lost.setdefault(unit.donor, []).append(unit.loss)
    order = sorted(lost, key=lambda tokens: (-sum(lost[tokens]), tokens))
    return [
        {
            "tokens": [describe(token) for token in tokens[:6]],
            "count": len(lost[tokens]),
            "loss": sum(lost[tokens]) * bits,
        }
        for tokens in order[:_COSTLIEST]
        if tokens and sum(lost[tokens]) > 0
    ]


def _deviation(lost: Sequence[float]) -> float | None:
    """The standard deviation of a sum, by blocks of neighbours, which depend on each other; None for one block."""
    blocks = [sum(lost[first : first + _BLOCK]) for first in range(0, len(lost), _BLOCK)]
    n = len(blocks)
    if n < 2:
        return None
    middle = sum(blocks) / n
    return math.sqrt(n / (n - 1) * sum((block - middle) ** 2 for block in blocks))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
