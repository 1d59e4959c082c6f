"""A recipe with numbers to be searched for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.merging.recipe import Recipe, parse_recipe
from tokensurgeon.merging.search.numbers import Number, filled_in, rounded

__all__ = ["Template"]


@dataclass(frozen=True, slots=True)
class Template:
    """A recipe as it was written.

    Attributes:
        source: Its table.
        numbers: Those to be found.
        path: Where it lies.
    """

    source: Mapping[str, Any]
    numbers: Sequence[Number]
    path: Path

    @property
    def start(self) -> tuple[float, ...]:
        """Where the search begins."""
        return rounded(self.numbers, [one.start for one in self.numbers])

    def by(self, values: Sequence[float]) -> Recipe:
        """The recipe with values in their places; its text is what a file of it holds."""
        import yaml

        source = filled_in(self.source, self.numbers, values)
        return parse_recipe(source, yaml.safe_dump(source, sort_keys=False, allow_unicode=True), self.path)
