"""Make rows that know nothing of the token: ``zero``, ``mean`` and ``normal``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Needs, Resources, parts
from tokensurgeon.transfer.statistics import mean_row, normal_rows

__all__ = ["Mean", "Normal", "Zero"]


@dataclass(frozen=True, slots=True)
class Zero:
    """Rows of zeros. In a head they have logit 0, which can beat every real token."""

    name: ClassVar[str] = "zero"
    needs: ClassVar[Needs] = "nothing"

    def fit(self, space: DonorSpace, _: Resources) -> _Drawn:
        """Count the targets."""
        return _Drawn(len(space.targets), seed=0, mean=0.0, spread=0.0)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the base's rows."""

    name: ClassVar[str] = "mean"
    needs: ClassVar[Needs] = "nothing"

    def fit(self, space: DonorSpace, _: Resources) -> _Drawn:
        """Count the targets."""
        return _Drawn(len(space.targets), seed=0, mean=1.0, spread=0.0)


@dataclass(frozen=True, slots=True)
class Normal:
    """Draws from the normal distribution with the mean and covariance of the base's rows.

    Hewitt (2021), "Initializing New Word Embeddings for Pretrained Language Models".

    Attributes:
        scale: Factor on the covariance. Hewitt's note uses 1e-5, which is the mean but for a
            difference between tokens.
    """

    name: ClassVar[str] = "normal"
    needs: ClassVar[Needs] = "nothing"
    scale: float = 1.0

    def fit(self, space: DonorSpace, resources: Resources) -> _Drawn:
        """Count the targets, and keep the seed."""
        return _Drawn(len(space.targets), resources.seed, mean=1.0, spread=self.scale)


@dataclass(frozen=True, slots=True)
class _Drawn:
    n: int
    seed: int
    mean: float
    spread: float

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        if self.spread:
            yield from normal_rows(base, self.n, self.seed, self.spread)
            return
        row = mean_row(base.every) if self.mean else torch.zeros(base.every.shape[1])
        for part in parts(self.n):
            yield row.expand(part.stop - part.start, -1)
