"""Say how good a merge is beside the models that it is made of, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from tokensurgeon.errors import InputError

__all__ = ["OBJECTIVES", "Objective", "Pieces", "bits_per_byte", "cost_of", "interval", "refuse_objective"]

Objective = Literal["regret", "mean", "worst"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)
Pieces = Mapping[str, Sequence[Sequence[float]]]
"""By text: nats and bytes of every piece."""
_DRAWS, _TAIL = 1000, 2.5
_LEAST = 1e-3
"""Bits that a share is taken of at least: a model may be certain of all items."""


def refuse_objective(name: str) -> None:
    """Refuse one that there is not.

    Raises:
        InputError: Naming those that there are.
    """
    if name not in OBJECTIVES:
        raise InputError(f"--objective {name!r} must be one of {', '.join(OBJECTIVES)}")


def bits_per_byte(scores: Pieces) -> dict[str, float]:
    """By text.

    >>> from tokensurgeon.merging.search.objective import bits_per_byte
    >>> bits_per_byte({"a": [[math.log(2), 1], [math.log(2) * 3, 1]]})
    {'a': 2.0}
    """
    return {name: _bits(np.array(pieces)) for name, pieces in scores.items()}


def cost_of(objective: Objective, merged: Mapping[str, float], models: Sequence[Mapping[str, float]]) -> float:
    """What is to be made small.

    Args:
        objective: ``mean``: bits per byte, the mean over texts. ``regret``: by how much they exceed those of the model
            that is best on the text, as a share, the mean over texts; so that a text counts as much as any other,
            however hard it is. ``worst``: that share on the text where it is largest.
        merged: Bits per byte of the merge, by text.
        models: The same of every single model.

    Example:
        >>> round(cost_of("regret", {"a": 1.1, "b": 2.2}, [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0}]), 6)
        0.1
    """
    if objective == "mean":
        return float(np.mean(list(merged.values())))
    best = {text: min(model[text] for model in models) for text in merged}
    shares = [(bits - best[text]) / max(best[text], _LEAST) for text, bits in merged.items()]
    return float(max(shares) if objective == "worst" else np.mean(shares))


def interval(figure: Callable[..., float], *scores: Pieces) -> dict[str, Any]:
    """A figure of several models' scores with its interval of 95 per cent, by drawing pieces again, for all the same.

    Args:
        figure: Gets bits per byte by text, of one model after the other.
        scores: Of one model after the other, on the same pieces.
    """
    parts = [{name: np.array(pieces) for name, pieces in one.items()} for one in scores]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(_DRAWS):
        which = {name: generator.integers(len(pieces), size=len(pieces)) for name, pieces in parts[0].items()}
        drawn.append(figure(*({name: _bits(one[name][ids]) for name, ids in which.items()} for one in parts)))
    low, high = np.percentile(drawn, [_TAIL, 100 - _TAIL])
    return {"value": figure(*map(bits_per_byte, scores)), "interval": [float(low), float(high)]}


def _bits(pieces: np.ndarray[Any, Any]) -> float:
    return float(pieces[:, 0].sum() / math.log(2) / pieces[:, 1].sum())
