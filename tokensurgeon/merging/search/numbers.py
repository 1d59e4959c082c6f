"""Find the numbers of a recipe that are to be searched for, and put found ones in their places."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tokensurgeon.errors import InputError

__all__ = ["Number", "filled_in", "numbers_of", "rounded"]

_KEYS = {"search", "start"}
_EXAMPLE = "{search: [0, 1], start: 0.5}"
_DIGITS = 6


Way = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a recipe that is to be found.

    Attributes:
        way: Keys and places in lists that lead to it.
        low: It is at least this.
        high: It is at most this.
        start: Where the search begins.
        also: Other ways to it, where the recipe names it by a YAML alias: it is one number in all places.
    """

    way: Way
    low: float
    high: float
    start: float
    also: tuple[Way, ...] = ()

    @property
    def name(self) -> str:
        """As messages say it.

        >>> from tokensurgeon.merging.search.numbers import Number
        >>> Number(("models", 0, "parameters", "weight"), 0, 1, 0.5).name
        'models.0.parameters.weight'
        """
        return ".".join(map(str, self.way))


def numbers_of(source: Any) -> list[Number]:
    """All of a recipe, in its order: tables such as ``{search: [0, 1], start: 0.5}``.

    Args:
        source: The recipe's table.

    Raises:
        InputError: If one has no proper bounds, or stands where nothing can be searched for.

    Example:
        >>> numbers_of({"parameters": {"t": {"search": [0, 1]}}})
        [Number(way=('parameters', 't'), low=0.0, high=1.0, start=0.5, also=())]
    """
    ways: dict[int, list[Way]] = {}
    nodes: dict[int, Mapping[str, Any]] = {}
    for node, way in _tables(source, (), set()):
        nodes[id(node)] = node
        ways.setdefault(id(node), []).append(way)
    return [replace(_number(nodes[key], first), also=tuple(others)) for key, (first, *others) in ways.items()]


def _tables(node: Any, way: Way, seen: set[int]) -> Iterator[tuple[Mapping[str, Any], Way]]:
    """Every table with ``search``, by every way to it; what an alias repeats is gone through once."""
    if isinstance(node, Mapping) and "search" in node:
        yield node, way
    elif isinstance(node, Mapping | list) and id(node) not in seen:
        seen.add(id(node))
        for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _tables(value, (*way, name), seen)


def _number(node: Mapping[str, Any], way: Way) -> Number:
    name, bounds = ".".join(map(str, way)), node["search"]
    if unknown := sorted(str(key) for key in set(node) - _KEYS):
        raise InputError(f"{name} has an unknown key {unknown[0]!r}; write {_EXAMPLE}")
    if "parameters" not in way:
        raise InputError(f"{name} cannot be searched for: only numbers under parameters can")
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_finite, bounds)) or bounds[0] >= bounds[1]:
        raise InputError(f"{name}: search={bounds!r} must be two numbers, the smaller first: {_EXAMPLE}")
    low, high = map(float, bounds)
    start = node.get("start", (low + high) / 2)
    if not _finite(start) or not low <= start <= high:
        raise InputError(f"{name}: start={start!r} must lie within {low:g} and {high:g}")
    return Number(way, low, high, float(start))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rounded(numbers: Sequence[Number], values: Sequence[float]) -> tuple[float, ...]:
    """Values as recipes have them, within the bounds: six digits say all that a search can find out.

    Args:
        numbers: As many as values.
        values: In the recipe's units.
    """
    short = (float(f"{value:.{_DIGITS}g}") for value in values)
    return tuple(float(np.clip(value, one.low, one.high)) for one, value in zip(numbers, short, strict=True))


def filled_in(source: Mapping[str, Any], numbers: Sequence[Number], values: Sequence[float]) -> dict[str, Any]:
    """A copy of a recipe's table with values in the places of its numbers.

    Args:
        source: The table.
        numbers: As `numbers_of` gave them.
        values: As many.

    Example:
        >>> source = {"parameters": {"t": {"search": [0, 1]}}}
        >>> filled_in(source, numbers_of(source), [0.25])
        {'parameters': {'t': 0.25}}
    """
    found: Any = copy.deepcopy(dict(source))  # in which aliases are still aliases
    places = [(way, value) for one, value in zip(numbers, values, strict=True) for way in (one.way, *one.also)]
    for (*way, last), value in places:
        node = found
        for step in way:
            node = node[step]
        node[last] = value
    return found  # type: ignore[no-any-return]
