"""Make rows as a sparse combination of anchors: ``omp`` (arXiv 2506.06607, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokensurgeon.solver.distributed import solve_in_shares
from tokensurgeon.transfer.combine import Weights
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources

__all__ = ["Omp"]


@dataclass(frozen=True, slots=True)
class Omp:
    """Orthogonal Matching Pursuit.

    Attributes:
        k: Anchors per token.
    """

    name: ClassVar[str] = "omp"
    needs: ClassVar[Needs] = "donor"
    k: int = 64

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Solve; under ``torchrun`` every rank takes its share."""
        return Weights(
            solve_in_shares(
                space.targets,
                space.anchors,
                self.k,
                exact=resources.exact,
                memory=resources.memory,
                device=resources.device,
                progress=resources.progress,
            )
        )
