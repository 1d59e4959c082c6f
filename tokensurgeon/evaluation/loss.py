"""Say how much worse a transplanted model predicts text than its base, and at what.

The same bytes are scored three times: by the base in its own tokenization; by the base made to read the donor's tokens,
each as the equal token of its own or as its pieces; by the transplant. What the second loses is the foreign
segmentation, to the base's own rows; what the third loses beside it is due to new ones. Between two places at which
both tokenizations meet stands a unit: a token of the base that the donor has whole, one that it splits, several that it
joins, or a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokensurgeon.alignment import Ids
from tokensurgeon.evaluation.context import context_of
from tokensurgeon.evaluation.loading import LoadedModel
from tokensurgeon.evaluation.logits import log_normaliser
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.meeting import KINDS, between_meetings, meeting_points, token_bytes
from tokensurgeon.vocabulary.segmentation import base_pieces
from tokensurgeon.vocabulary.writing import Writing, writing_of

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
        data: Its bytes, in the donor's tokens.
        donor: The donor's ids.
        base: Nats of the base's own tokens.
        forced: (donor's tokens) nats of the base, made to read them.
        transplant: (donor's tokens) nats.
    """

    kind: str
    data: bytes
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
    found: list[float] = nats.cpu().double().tolist()
    return (found if before else [0.0, *found]), mass


def read_base(
    loaded: LoadedModel,
    sides: tuple[Vocabulary, Vocabulary],
    known: Ids,
    rows: int,
    pieces: Sequence[str],
) -> list[BasePiece]:
    """Let the base read text twice. Pieces beyond its context, or that it cannot spell, are left out.

    Args:
        loaded: The base.
        sides: Its vocabulary and the donor's.
        known: (donor ids,) int64, the base's id of each; -1 for those that are cut into the base's pieces.
        rows: Of the base's embedding.
        pieces: Text.
    """
    left, right = (token_bytes(side) for side in sides)
    context = context_of(loaded.model)
    found = []
    for piece in pieces:
        ids, theirs = loaded.encode(piece), sides[1].encode(piece)
        others = iter(base_pieces(*sides, [i for i in theirs if known[i] < 0], rows))
        cut = [[int(known[i])] if known[i] >= 0 else next(others) for i in theirs]
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


def units_of(piece: BasePiece, transplant: Sequence[float], spelled: Sequence[bytes]) -> Iterator[Unit]:
    """A piece, unit by unit; what comes behind the last meeting is one too.

    Args:
        piece: As the base reads it.
        transplant: (tokens of the donor) nats of the transplant.
        spelled: Bytes of every id of the donor.
    """
    for kind, base, donor in between_meetings(piece.meet, len(piece.base), len(piece.donor)):
        yield Unit(
            kind,
            b"".join(spelled[token] for token in piece.donor[donor]),
            tuple(piece.donor[donor]),
            sum(piece.base_nats[base]),
            tuple(piece.forced_nats[donor]),
            tuple(transplant[donor]),
        )


def describe_loss(
    units: Sequence[Unit], n_bytes: int, new: Callable[[int], bool], describe: Callable[[int], str]
) -> dict[str, Any]:
    """The loss in bits per byte, split in four ways.

    Args:
        units: Of all pieces, in order.
        n_bytes: Of the text.
        new: Whether one of the donor's ids was not the base's.
        describe: The donor's token for people.

    Returns:
        ``bits_per_byte`` of base, forced base and transplant; ``loss`` with half of the width of its 95% interval
        (``interval``, None for too little text), of which ``segmentation``, ``new`` and ``shared`` tokens are parts;
        ``units`` by kind, each with its share of the loss; for split ones ``first_nats`` and ``inside_nats`` a token;
        ``writing`` by what the text is, each with its share of the text's bytes and of the loss; ``costliest`` tokens.
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
            for kind in KINDS
        },
        "split": {
            "first_nats": _mean([unit.transplant[0] for unit in split]),
            "inside_nats": _mean(inside),
            "inside_tokens": len(inside),
            "base_nats": _mean([unit.base for unit in split]),
        },
        "writing": _by_writing(units, bits),
        "costliest": _costliest(units, bits, describe),
    }


def _by_writing(units: Sequence[Unit], bits: float) -> dict[str, dict[str, float]]:
    """Share of the bytes and bits per byte lost, of what there is."""
    shares = {str(kind): {"bytes": 0.0, "loss": 0.0} for kind in Writing}
    read = sum(len(unit.data) for unit in units)
    for unit in units:
        share = shares[writing_of(unit.data)]
        share["bytes"] += len(unit.data) / max(1, read)
        share["loss"] += unit.loss * bits
    return {kind: share for kind, share in shares.items() if any(share.values())}


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
