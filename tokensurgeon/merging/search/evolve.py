"""Look for the numbers of least cost by CMA-ES."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tokensurgeon.merging.search.numbers import Number, rounded

__all__ = ["Found", "evolve"]

_STEP = 0.25
"""Of the way from low to high, at the beginning."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best that a search came by.

    Attributes:
        values: One a number.
        cost: What they cost.
        evaluations: How many were tried in all.
    """

    values: tuple[float, ...]
    cost: float
    evaluations: int


def evolve(
    numbers: Sequence[Number],
    costs: Callable[[Sequence[tuple[float, ...]]], Iterable[float]],
    evaluations: int,
    *,
    seed: int = 0,
    tell: Callable[[int, Found], None] | None = None,
) -> Found:
    """Try the start, and then what CMA-ES asks for (arXiv 1604.00772), each number scaled to its bounds.

    The same arguments ask for the same values in the same order, so that a cost that remembers goes on where it was.

    Args:
        numbers: At least one.
        costs: What each of some values costs, in their order; less is better. A generation is asked for at once.
        evaluations: How many to try at most; fewer where the search has converged.
        seed: Of the draws.
        tell: Called after each with how many there were and the best so far.

    Example:
        >>> t = Number(("t",), 0.0, 4.0, 1.0)
        >>> best = evolve([t], lambda asked: [(values[0] - 3) ** 2 for values in asked], 100)
        >>> abs(best.values[0] - 3) < 0.01
        True
    """
    from cmaes import CMA

    low, high = (np.array([getattr(one, end) for one in numbers]) for end in ("low", "high"))
    start = (np.array([one.start for one in numbers]) - low) / (high - low)
    spare = [0.5] * (len(numbers) == 1)  # CMA-ES needs two; nothing depends on the second
    mean = np.concatenate([start, spare])
    bounds = np.tile([0.0, 1.0], (len(mean), 1))
    optimizer = CMA(mean=mean, sigma=_STEP, bounds=bounds, seed=seed)
    values = rounded(numbers, [one.start for one in numbers])
    (price,) = costs([values])
    best = Found(values, price, 1)
    if tell is not None:
        tell(1, best)
    tried = 1
    while tried < evaluations and not optimizer.should_stop():
        asked = [optimizer.ask() for _ in range(min(optimizer.population_size, evaluations - tried))]
        wanted = [rounded(numbers, low + one[: len(numbers)] * (high - low)) for one in asked]
        prices = []
        for values, price in zip(wanted, costs(wanted), strict=True):
            tried += 1
            best = Found(values, price, tried) if price < best.cost else Found(best.values, best.cost, tried)
            if tell is not None:
                tell(tried, best)
            prices.append(price)
        if len(prices) == optimizer.population_size:
            optimizer.tell(list(zip(asked, prices, strict=True)))
    return best
