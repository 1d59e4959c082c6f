"""Map rows from the donor's space to the base's, by a map learnt on the anchors: ``ridge`` and ``procrustes``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch

from tokensurgeon.solver.problem import check_problem
from tokensurgeon.transfer.linear import Mapped, centred, crossed, middle_of
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Needs, Resources

__all__ = ["Procrustes", "Ridge"]


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

    def fit(self, space: DonorSpace, _: Resources) -> Mapped:
        """Keep both sets of rows; the map depends on the base's matrix."""
        check_problem(space.targets, space.anchors, 1)
        return Mapped(space if self.pieces == "shared" else replace(space, pieces=None), self.penalty)


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
        mean, middle = middle_of(source), middle_of(base.anchors)
        left, sizes, right = torch.linalg.svd(crossed(source, mean, base.anchors, middle), full_matrices=False)
        size = sum((rows @ left).square().sum() for rows in centred(source, mean))
        scale = sizes.sum() / torch.as_tensor(size).clamp(min=1e-30)
        for rows in centred(self.space.targets, mean):
            yield ((rows @ left @ right) * scale + middle).float()
