"""``ridge`` and ``procrustes``: one linear map from the donor's space to the base's, learnt on the anchors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from tokensurgeon.omp import check_problem
from tokensurgeon.reconstruct.protocol import BaseRows, DonorSpace, Resources

__all__ = ["Procrustes", "Ridge"]

_PENALTIES = torch.logspace(-5, 1, 13, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Least squares with a penalty on the map, both sides centred (Hoerl and Kennard 1970).

    Attributes:
        penalty: In units of the mean squared singular value of the anchors. By default (0 here) the
            one with the smallest leave-one-out error on the anchors, of 13 from 1e-5 to 10.
    """

    penalty: float = 0.0

    def fit(self, space: DonorSpace, _: Resources) -> _Mapped:
        """Keep both sets of rows; the map depends on the base's matrix."""
        check_problem(space.targets, space.anchors, 1)
        return _Mapped(space, self.penalty)


@dataclass(frozen=True)
class _Mapped:
    space: DonorSpace
    penalty: float

    @cached_property
    def _decomposed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean of the anchors, the centred anchors, and their Gram matrix as eigenvalues and vectors."""
        anchors = self.space.anchors.double()
        mean = anchors.mean(dim=0)
        centred = anchors - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        return mean, centred, values.clamp(min=0), vectors

    def rows(self, base: BaseRows) -> torch.Tensor:
        mean, centred, values, vectors = self._decomposed
        target = base.anchors.double()
        middle = target.mean(dim=0)
        turned = centred @ vectors
        crossed = turned.T @ (target - middle)
        unit = values.mean().clamp(min=1e-30)
        penalties = [self.penalty] if self.penalty else _PENALTIES.tolist()
        errors = [self._left_out(turned, values, crossed, target - middle, unit * p) for p in penalties]
        best = unit * penalties[errors.index(min(errors))]
        new = (self.space.targets.double() - mean) @ vectors
        return (new @ (crossed / (values + best)[:, None]) + middle).float()

    @staticmethod
    def _left_out(
        turned: torch.Tensor, values: torch.Tensor, crossed: torch.Tensor, target: torch.Tensor, penalty: torch.Tensor
    ) -> float:
        """Mean squared error of every anchor, predicted by a fit to all others."""
        shrunk = 1 / (values + penalty)
        residual = target - turned @ (crossed * shrunk[:, None])
        influence = (turned.square() @ shrunk) + 1 / len(turned)  # the mean is fitted too
        return float((residual / (1 - influence).clamp(min=1e-6)[:, None]).square().mean())


@dataclass(frozen=True, slots=True)
class Procrustes:
    """The (semi-)orthogonal map and the scale that bring the anchors near to the base's (Schönemann 1966).

    With X, Y the centred anchors of donor and base and UΣVᵀ = XᵀY, rows are (x - x̄)·UVᵀ·tr(Σ)/‖XU‖² + ȳ. Where the
    donor is wider than the base, UVᵀ has the largest inner product with Y, and only nearly the least error: that
    problem has no closed form.
    """

    def fit(self, space: DonorSpace, _: Resources) -> _Turned:
        """Keep both sets of rows; the map depends on the base's matrix."""
        check_problem(space.targets, space.anchors, 1)
        return _Turned(space)


@dataclass(frozen=True, slots=True)
class _Turned:
    space: DonorSpace

    def rows(self, base: BaseRows) -> torch.Tensor:
        source, target = self.space.anchors.double(), base.anchors.double()
        mean, middle = source.mean(dim=0), target.mean(dim=0)
        centred = source - mean
        left, sizes, right = torch.linalg.svd(centred.T @ (target - middle), full_matrices=False)
        scale = sizes.sum() / (centred @ left).square().sum().clamp(min=1e-30)
        rows: torch.Tensor = ((self.space.targets.double() - mean) @ left @ right) * scale + middle
        return rows.float()
