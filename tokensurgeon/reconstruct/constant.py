"""``zero``, ``mean`` and ``normal``: rows that know nothing of the token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tokensurgeon.reconstruct.protocol import BaseRows, DonorSpace, Resources, parts

__all__ = ["Mean", "Normal", "Zero", "mean_row", "normal_rows"]


@dataclass(frozen=True, slots=True)
class Zero:
    """Rows of zeros. In a head they have logit 0, which can beat every real token."""

    def fit(self, space: DonorSpace, _: Resources) -> _Drawn:
        """Count the targets."""
        return _Drawn(len(space.targets), seed=0, mean=0.0, spread=0.0)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the base's rows."""

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


def mean_row(rows: torch.Tensor) -> torch.Tensor:
    """(dim,) float32 mean of the rows that are finite: a damaged one that nobody needs shall not spoil the others."""
    total, n = torch.zeros(rows.shape[1], dtype=torch.float64), 0
    for some in _finite(rows):
        total, n = total + some.sum(dim=0, dtype=torch.float64), n + len(some)
    return (total / max(1, n)).float()


def normal_rows(base: BaseRows, n: int, seed: int, scale: float = 1.0) -> Iterator[torch.Tensor]:
    """``n`` draws with the mean and ``scale`` times the covariance of the base's rows, a block at a time."""
    mean, dim = mean_row(base.every), base.every.shape[1]
    covariance, seen = torch.zeros(dim, dim, dtype=torch.float64), 0
    for some in _finite(base.every):
        centred = some.double() - mean
        covariance, seen = covariance.addmm_(centred.T, centred), seen + len(some)
    values, vectors = torch.linalg.eigh(covariance / max(1, seen))
    root = (vectors * (scale * values.clamp(min=0)).sqrt()).float()
    generator = torch.Generator().manual_seed(seed + (1 if base.use == "head" else 0))
    for part in parts(n):
        yield mean + torch.randn(part.stop - part.start, dim, generator=generator) @ root.T


def _finite(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    for part in parts(len(rows)):
        some = rows[part].float()
        good = torch.isfinite(some.sum(dim=1))
        yield some if bool(good.all()) else some[good]
