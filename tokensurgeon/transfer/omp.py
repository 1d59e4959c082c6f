"""Make rows as a sparse combination of anchors: ``omp`` (arXiv 2506.06607, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokensurgeon.solver.distributed import solve_in_shares
from tokensurgeon.transfer.combine import Completed, Weights
from tokensurgeon.transfer.linear import Mapped
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources

__all__ = ["Omp"]


@dataclass(frozen=True, slots=True)
class Omp:
    """Orthogonal Matching Pursuit.

    Attributes:
        k: Anchors per token.
        rest: What becomes of that part of the donor's row that the combination leaves: ``mapped`` as ridge maps rows,
            see `Completed`, or ``dropped`` as in the paper.
        tokens: New tokens that are combined where the rest is mapped: those with the lowest ids, which are the most
            frequent ones of a vocabulary made by merges. The rows of others are the map's alone, as ridge's are. What
            OMP takes grows with their number, and rows that hardly ever count take probability from others if they are
            not as careful as the map's.
    """

    name: ClassVar[str] = "omp"
    needs: ClassVar[Needs] = "donor"
    k: int = 8
    rest: Literal["mapped", "dropped"] = "mapped"
    tokens: int = 16_384

    def fit(self, space: DonorSpace, resources: Resources) -> Weights | Completed:
        """Solve; under ``torchrun`` every rank takes its share."""
        combined = len(space.targets) if self.rest == "dropped" else self.tokens
        weights = Weights(
            solve_in_shares(
                space.targets[:combined],
                space.anchors,
                self.k,
                exact=resources.exact,
                memory=resources.memory,
                device=resources.device,
                progress=resources.progress,
            )
        )
        return weights if self.rest == "dropped" else Completed(weights, Mapped(space))
