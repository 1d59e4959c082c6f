"""Draw what a search tried, and the best so far, as a picture inside of a page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["search_curve"]

_WIDTH, _HEIGHT, _LEFT, _EDGE = 640, 240, 64, 24


def search_curve(tried: Sequence[float | None], name: str) -> str:
    """SVG: a dot for every merge that a search tried, in their order, and a line for the best so far.

    Dots far above the start would press all others together: they stand at the upper edge.

    Args:
        tried: What each cost; None where that was not finite.
        name: Of what it cost.

    Example:
        >>> from tokensurgeon.report.curve import search_curve
        >>> search_curve([0.5, None, 0.25], "regret").count("<circle")
        2
    """
    finite = [cost for cost in tried if cost is not None]
    if not finite:
        return ""
    low = min(finite)
    top = max(low + 1.5 * ((tried[0] or finite[0]) - low), sorted(finite)[len(finite) * 9 // 10])
    span = top - low or 1.0

    def x(place: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _EDGE) * place / max(1, len(tried) - 1)

    def y(cost: float) -> float:
        return _EDGE + (_HEIGHT - 2 * _EDGE) * (1 - (min(cost, top) - low) / span)

    dots = "".join(
        f'<circle cx="{x(i):.1f}" cy="{y(cost):.1f}" r="3"/>' for i, cost in enumerate(tried) if cost is not None
    )
    best = itertools.accumulate(tried, lambda one, other: min((c for c in (one, other) if c is not None), default=None))
    line = " ".join(f"{x(i):.1f},{y(cost):.1f}" for i, cost in enumerate(best) if cost is not None)
    marks = "".join(
        f'<text x="{_LEFT - 8}" y="{y(cost) + 4:.1f}" text-anchor="end">{cost:.4f}</text>' for cost in (low, top)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name} of {len(tried)} merges">'
        f'<g fill="#8fb3d9">{dots}</g><polyline points="{line}" fill="none" stroke="#3b6ea8" stroke-width="2"/>'
        f'<g font-size="12" fill="#5b6670">{marks}<text x="{_LEFT}" y="{_HEIGHT - 4}">1</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 4}" text-anchor="end">{len(tried)} merges</text></g></svg>'
    )
