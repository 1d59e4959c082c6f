"""Say which piece of text comes when: all alike, or texts by weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tokensurgeon.healing.batches import nth_piece

__all__ = ["BLOCK", "Order", "by_weight", "shares"]

Order = Callable[[int], int]
"""From a position of an endless order to a piece's number."""
BLOCK = 100
"""Among so many pieces one after the other every text has its share."""


def shares(weights: Sequence[float]) -> list[int]:
    """How many of `BLOCK` pieces are of each text.

    >>> shares([0.8, 0.2]), shares([1, 1, 1])
    ([80, 20], [34, 33, 33])
    """
    exact = np.array(weights, dtype=float) / sum(weights) * BLOCK
    counts = np.floor(exact).astype(int)
    for text in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[text] += 1
    return [int(count) for count in counts]


def by_weight(texts: np.ndarray[Any, np.dtype[np.int64]], weights: Sequence[float], seed: int) -> Order:
    """An order in which each text has its share, and all of its pieces come once before any comes again.

    Args:
        texts: (pieces,) number of the text that each is of, from 0 to one less than there are weights; at least one
            each.
        weights: One per text; none for pieces that are all alike.
        seed: For the order.
    """
    if not weights:
        return lambda position: nth_piece(len(texts), position, seed)
    counts = shares(weights)
    own = [np.flatnonzero(texts == number) for number in range(len(weights))]

    @lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng((seed, number)).permutation(np.repeat(np.arange(len(counts)), counts))

    def at(position: int) -> int:
        number, place = divmod(position, BLOCK)
        text = int(block(number)[place])
        before = number * counts[text] + int((block(number)[:place] == text).sum())
        return int(own[text][nth_piece(len(own[text]), before, seed + text)])

    return at
