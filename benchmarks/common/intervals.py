"""Figures with confidence intervals, by bootstrap over documents, items, or both models' equal ones at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["accuracy", "bits_per_byte", "loss"]

_DRAWS = 2000
_LEVEL = 95

Documents = Mapping[str, Sequence[Mapping[str, float]]]


def bits_per_byte(texts: Documents) -> dict[str, Any]:
    """Per corpus, and their mean with its interval."""
    parts = [np.array([[d["nats"], d["bytes"]] for d in documents]) for documents in texts.values()]
    value = {name: _bits(part) for name, part in zip(texts, parts, strict=True)}
    return {"mean": float(np.mean(list(value.values()))), **value} | {"interval": _interval(parts, _mean_bits)}


def loss(texts: Documents, reference: Documents) -> dict[str, Any]:
    """Mean over corpora of what is lost against another model on the same documents, paired."""
    parts = [
        np.array([[d["nats"] - r["nats"], d["bytes"]] for d, r in zip(texts[name], reference[name], strict=True)])
        for name in texts
    ]
    return {"mean": _mean_bits(parts), "interval": _interval(parts, _mean_bits)}


def accuracy(right: Sequence[int]) -> dict[str, Any]:
    """Share of right answers."""
    items = np.array(right, dtype=float)
    return {"mean": float(items.mean()), "interval": _interval([items], lambda drawn: float(drawn[0].mean()))}


def _bits(part: np.ndarray[Any, Any]) -> float:
    return float(part[:, 0].sum() / math.log(2) / part[:, 1].sum())


def _mean_bits(parts: Sequence[np.ndarray[Any, Any]]) -> float:
    return float(np.mean([_bits(part) for part in parts]))


def _interval(
    parts: Sequence[np.ndarray[Any, Any]], figure: Callable[[Sequence[np.ndarray[Any, Any]]], float]
) -> list[float]:
    """Every corpus is drawn again from its own documents."""
    generator = np.random.default_rng(0)
    drawn = [figure([part[generator.integers(len(part), size=len(part))] for part in parts]) for _ in range(_DRAWS)]
    tail = (100 - _LEVEL) / 2
    return [float(edge) for edge in np.percentile(drawn, [tail, 100 - tail])]
