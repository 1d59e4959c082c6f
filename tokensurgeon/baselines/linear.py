"""Map rows from the donor's space to the base's, by a map learnt on the anchors: ``ridge`` and ``procrustes``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch

from tokensurgeon.solver.problem import check_problem
from tokensurgeon.transfer.composed import at_anchors, shares_of
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Needs, Pieces, Resources, parts
from tokensurgeon.transfer.statistics import piece_means

__all__ = ["Procrustes", "Ridge"]

_AT_ONCE = 1024
_LEFT_OUT = 4096
"""Anchors that are left out, each on its own, to choose a penalty."""
_PENALTIES = torch.logspace(-5, 1, 13, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Least squares with a penalty on the map, both sides centred (Hoerl and Kennard 1970).

    How far the map is wrong about a token's pieces is known, since the base has them. The row is corrected by as much
    of that as there is of the pieces in the donor's row, see `tokensurgeon.transfer.composed`.

    Attributes:
        penalty: In units of the mean squared singular value of the anchors; 0 is plain least squares. None takes the
            one with the smallest leave-one-out error on the anchors, of 13 from 1e-5 to 10.
        pieces: Whether rows are corrected by their pieces: ``shared`` as said, or by ``none``.
    """

    name: ClassVar[str] = "ridge"
    needs: ClassVar[Needs] = "donor"
    penalty: float | None = field(default=None, metadata={"zero": True})
    pieces: Literal["shared", "none"] = "shared"

    def fit(self, space: DonorSpace, _: Resources) -> _Mapped:
        """Keep both sets of rows; the map depends on the base's matrix."""
        check_problem(space.targets, space.anchors, 1)
        return _Mapped(space if self.pieces == "shared" else replace(space, pieces=None), self.penalty)


@dataclass(frozen=True)
class _Mapped:
    space: DonorSpace
    penalty: float | None

    @cached_property
    def _decomposed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean of the anchors, and the Gram matrix of the centred anchors as eigenvalues and vectors."""
        mean = _mean(self.space.anchors)
        gram = _crossed(self.space.anchors, mean, self.space.anchors, mean)
        values, vectors = torch.linalg.eigh(gram)
        return mean, values.clamp(min=0), vectors

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        mean, values, vectors = self._decomposed
        middle = _mean(base.anchors)
        crossed = vectors.T @ _crossed(self.space.anchors, mean, base.anchors, middle)
        unit = values.mean().clamp(min=1e-30)
        if self.penalty is None:
            penalties = unit * _PENALTIES
            best = penalties[self._left_out(base, middle, crossed, penalties).argmin()]
        else:
            best = unit * self.penalty
        divisors = values + best
        noise = divisors.max() * len(divisors) * torch.finfo(torch.float64).eps
        shrunk = torch.where(divisors > noise, 1 / divisors, 0.0)  # directions that no anchor has: the pseudo-inverse
        turned = (vectors @ (crossed * shrunk[:, None])).float()
        for part in parts(len(self.space.targets)):
            rows = (self.space.targets[part].float() - mean.float()) @ turned + middle.float()
            yield rows if self._at is None else rows + self._corrections(base, part, turned, middle.float())

    @cached_property
    def _at(self) -> Pieces | None:
        """The targets' pieces as positions among the anchors."""
        pieces, ids = self.space.pieces, self.space.ids
        return None if pieces is None or ids is None else at_anchors(pieces, ids)

    def _corrections(self, base: BaseRows, part: slice, turned: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
        """(n, base dim) of some targets, a few at a time: what the map makes of pieces wrongly, by their shares."""
        assert self._at is not None and self.space.pieces is not None
        mean, found = self._decomposed[0].float(), []
        for start in range(part.start, max(part.stop, part.start + 1), _AT_ONCE):
            few = slice(start, min(start + _AT_ONCE, part.stop))
            shares, along = shares_of(self.space, self._at, few, mean)
            wrong = piece_means(base.every, self.space.pieces[few]) - middle - along @ turned
            found.append(torch.where(shares[:, None] > 0, shares[:, None] * wrong, 0.0))
        return torch.cat(found)

    def _left_out(
        self, base: BaseRows, middle: torch.Tensor, crossed: torch.Tensor, penalties: torch.Tensor
    ) -> torch.Tensor:
        """Summed squared error of every anchor, or of some of many, predicted by a fit to all others, by penalty."""
        mean, values, vectors = self._decomposed
        errors = torch.zeros(len(penalties), dtype=torch.float64)
        n = len(base.anchors)
        some = slice(None, None, max(1, -(-n // _LEFT_OUT)))
        for known, target in zip(
            _centred(self.space.anchors[some], mean), _centred(base.anchors[some], middle), strict=True
        ):
            turned = known @ vectors
            for i, penalty in enumerate(penalties):
                shrunk = 1 / (values + penalty)
                residual = target - turned @ (crossed * shrunk[:, None])
                influence = (turned.square() @ shrunk) + 1 / n  # the mean is fitted too
                errors[i] += (residual / (1 - influence).clamp(min=1e-6)[:, None]).square().sum()
        return errors


@dataclass(frozen=True, slots=True)
class Procrustes:
    """The (semi-)orthogonal map and the scale that bring the anchors near to the base's (Schönemann 1966).

    With X, Y the centred anchors of donor and base and UΣVᵀ = XᵀY, rows are (x - x̄)·UVᵀ·tr(Σ)/‖XU‖² + ȳ. Where the
    donor is wider than the base, UVᵀ has the largest inner product with Y, and only nearly the least error: that
    problem has no closed form.
    """

    name: ClassVar[str] = "procrustes"
    needs: ClassVar[Needs] = "donor"

    def fit(self, space: DonorSpace, _: Resources) -> _Turned:
        """Keep both sets of rows; the map depends on the base's matrix."""
        check_problem(space.targets, space.anchors, 1)
        return _Turned(space)


@dataclass(frozen=True, slots=True)
class _Turned:
    space: DonorSpace

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        source = self.space.anchors
        mean, middle = _mean(source), _mean(base.anchors)
        left, sizes, right = torch.linalg.svd(_crossed(source, mean, base.anchors, middle), full_matrices=False)
        size = sum((rows @ left).square().sum() for rows in _centred(source, mean))
        scale = sizes.sum() / torch.as_tensor(size).clamp(min=1e-30)
        for rows in _centred(self.space.targets, mean):
            yield ((rows @ left @ right) * scale + middle).float()


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """(dim,) float64, without a float64 copy of all rows."""
    return rows.sum(dim=0, dtype=torch.float64) / max(1, len(rows))


def _centred(rows: torch.Tensor, mean: torch.Tensor) -> Iterator[torch.Tensor]:
    """(some rows, dim) float64 at a time."""
    for part in parts(len(rows)):
        yield rows[part].double() - mean


def _crossed(source: torch.Tensor, mean: torch.Tensor, target: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """(source dim, target dim) float64: the product of both sides' centred rows."""
    total = torch.zeros(source.shape[1], target.shape[1], dtype=torch.float64)
    for a, b in zip(_centred(source, mean), _centred(target, middle), strict=True):
        total.addmm_(a.T, b)
    return total
