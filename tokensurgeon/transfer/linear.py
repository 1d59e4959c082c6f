"""Learn a linear map from the donor's rows to the base's on the anchors, and make rows by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from tokensurgeon.transfer.composed import at_anchors, shares_of
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Pieces, parts
from tokensurgeon.transfer.statistics import piece_means

__all__ = ["Affine", "Mapped", "centred", "crossed", "middle_of"]

_AT_ONCE = 1024
_LEFT_OUT = 4096
"""Anchors that are left out, each on its own, to choose a penalty."""
_PENALTIES = torch.logspace(-5, 1, 13, dtype=torch.float64)


class Affine(NamedTuple):
    """A learnt map.

    Attributes:
        matrix: (donor dim, base dim) float32.
        before: (donor dim,) float32, the mean of the donor's rows of the anchors.
        after: (base dim,) float32, that of the base's.
    """

    matrix: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, base dim) float32 of (n, donor dim) rows."""
        return (rows.float() - self.before) @ self.matrix + self.after


@dataclass(frozen=True)
class Mapped:
    """Rows by least squares with a penalty on the map, both sides centred (Hoerl and Kennard 1970).

    Where the pieces of the targets are given, a row is corrected by what the map makes wrong of them, by as much as
    there is of them in the donor's row, see `tokensurgeon.transfer.composed`.

    Attributes:
        space: Targets and anchors in the donor's matrix.
        penalty: In units of the mean squared singular value of the anchors; 0 is plain least squares. None takes the
            one with the smallest leave-one-out error on the anchors, of 13 from 1e-5 to 10.
    """

    space: DonorSpace
    penalty: float | None = None

    @cached_property
    def _decomposed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean of the anchors, and the Gram matrix of the centred anchors as eigenvalues and vectors."""
        mean = middle_of(self.space.anchors)
        gram = crossed(self.space.anchors, mean, self.space.anchors, mean)
        values, vectors = torch.linalg.eigh(gram)
        return mean, values.clamp(min=0), vectors

    def onto(self, base: BaseRows) -> Affine:
        """The map to one of the base's matrices."""
        mean, values, vectors = self._decomposed
        middle = middle_of(base.anchors)
        products = vectors.T @ crossed(self.space.anchors, mean, base.anchors, middle)
        unit = values.mean().clamp(min=1e-30)
        if self.penalty is None:
            penalties = unit * _PENALTIES
            best = penalties[self._left_out(base, middle, products, penalties).argmin()]
        else:
            best = unit * self.penalty
        divisors = values + best
        noise = divisors.max() * len(divisors) * torch.finfo(torch.float64).eps
        shrunk = torch.where(divisors > noise, 1 / divisors, 0.0)  # directions that no anchor has: the pseudo-inverse
        return Affine((vectors @ (products * shrunk[:, None])).float(), mean.float(), middle.float())

    def blocks(self, base: BaseRows) -> Iterator[torch.Tensor]:
        """See `Fitted`."""
        learnt = self.onto(base)
        for part in parts(len(self.space.targets)):
            yield self.rows(learnt, base, part)

    def rows(self, learnt: Affine, base: BaseRows, part: slice) -> torch.Tensor:
        """(n, base dim) float32 of some targets, by the map that was learnt to the base's matrix."""
        rows = learnt(self.space.targets[part])
        return rows if self._at is None else rows + self._corrections(learnt, base, part)

    @cached_property
    def _at(self) -> Pieces | None:
        """The targets' pieces as positions among the anchors."""
        pieces, ids = self.space.pieces, self.space.ids
        return None if pieces is None or ids is None else at_anchors(pieces, ids)

    def _corrections(self, learnt: Affine, base: BaseRows, part: slice) -> torch.Tensor:
        """(n, base dim) of some targets, a few at a time: what the map makes of pieces wrongly, by their shares."""
        assert self._at is not None and self.space.pieces is not None
        found = []
        for start in range(part.start, max(part.stop, part.start + 1), _AT_ONCE):
            few = slice(start, min(start + _AT_ONCE, part.stop))
            shares, along = shares_of(self.space, self._at, few, learnt.before)
            wrong = piece_means(base.every, self.space.pieces[few]) - learnt.after - along @ learnt.matrix
            found.append(torch.where(shares[:, None] > 0, shares[:, None] * wrong, 0.0))
        return torch.cat(found)

    def _left_out(
        self, base: BaseRows, middle: torch.Tensor, products: torch.Tensor, penalties: torch.Tensor
    ) -> torch.Tensor:
        """Summed squared error of every anchor, or of some of many, predicted by a fit to all others, by penalty."""
        mean, values, vectors = self._decomposed
        errors = torch.zeros(len(penalties), dtype=torch.float64)
        n = len(base.anchors)
        some = slice(None, None, max(1, -(-n // _LEFT_OUT)))
        for known, target in zip(
            centred(self.space.anchors[some], mean), centred(base.anchors[some], middle), strict=True
        ):
            turned = known @ vectors
            for i, penalty in enumerate(penalties):
                shrunk = 1 / (values + penalty)
                residual = target - turned @ (products * shrunk[:, None])
                influence = (turned.square() @ shrunk) + 1 / n  # the mean is fitted too
                errors[i] += (residual / (1 - influence).clamp(min=1e-6)[:, None]).square().sum()
        return errors


def middle_of(rows: torch.Tensor) -> torch.Tensor:
    """(dim,) float64, without a float64 copy of all rows."""
    return rows.sum(dim=0, dtype=torch.float64) / max(1, len(rows))


def centred(rows: torch.Tensor, mean: torch.Tensor) -> Iterator[torch.Tensor]:
    """(some rows, dim) float64 at a time."""
    for part in parts(len(rows)):
        yield rows[part].double() - mean


def crossed(source: torch.Tensor, mean: torch.Tensor, target: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """(source dim, target dim) float64: the product of both sides' centred rows."""
    total = torch.zeros(source.shape[1], target.shape[1], dtype=torch.float64)
    for a, b in zip(centred(source, mean), centred(target, middle), strict=True):
        total.addmm_(a.T, b)
    return total
