"""Compute mean and covariance of a base's rows, damaged ones left out."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokensurgeon.transfer.protocol import BaseRows, parts

__all__ = ["mean_row", "normal_rows"]


def mean_row(rows: torch.Tensor) -> torch.Tensor:
    """(dim,) float32 mean of the rows that are finite: a damaged one that nobody needs does not spoil the others."""
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
