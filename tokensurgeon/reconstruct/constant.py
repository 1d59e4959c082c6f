"""``zero``, ``mean`` and ``normal``: rows that know nothing of the token."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tokensurgeon.reconstruct.protocol import BaseRows, DonorSpace, Resources

__all__ = ["Mean", "Normal", "Zero", "normal_rows", "usable"]


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

    def rows(self, base: BaseRows) -> torch.Tensor:
        if self.spread:
            return normal_rows(base, self.n, self.seed, self.spread)
        if not self.mean:
            return torch.zeros(self.n, base.every.shape[1])
        return usable(base.every).mean(dim=0).repeat(self.n, 1)


def usable(rows: torch.Tensor) -> torch.Tensor:
    """The rows that are finite, in float32: a damaged row that nobody needs shall not spoil the others."""
    rows = rows.float()
    good = torch.isfinite(rows.sum(dim=1))
    return rows if bool(good.all()) else rows[good]


def normal_rows(base: BaseRows, n: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """(n, base dim) draws with the mean and ``scale`` times the covariance of the base's rows."""
    every = usable(base.every)
    covariance = torch.cov(every.T.double(), correction=0).reshape(every.shape[1], every.shape[1])
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * (scale * values.clamp(min=0)).sqrt()).float()
    generator = torch.Generator().manual_seed(seed + (1 if base.use == "head" else 0))
    drawn: torch.Tensor = torch.randn(n, every.shape[1], generator=generator) @ root.T
    return every.mean(dim=0) + drawn
