"""Make rows as a sparse combination of anchors: ``omp`` (arXiv 2506.06607, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tokensurgeon.alignment import Ids
from tokensurgeon.errors import InputError
from tokensurgeon.solver.distributed import solve_in_shares
from tokensurgeon.transfer.combine import Completed, Weights
from tokensurgeon.transfer.linear import Mapped
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources

__all__ = ["Omp"]

_COMBINED = 16_384


@dataclass(frozen=True, slots=True)
class Omp:
    """Orthogonal Matching Pursuit.

    Attributes:
        k: Anchors per token.
        rest: What becomes of that part of the donor's row that the combination leaves: ``mapped`` as ridge maps rows,
            see `Completed`, or ``dropped`` as in the paper.
        tokens: New tokens that are combined where the rest is mapped, by default 16,384: those with the lowest ids,
            which are a vocabulary's first merges and most of its frequent tokens. The rows of others are the map's
            alone, as ridge's are. What OMP takes grows with their number, and rows that hardly ever count take
            probability from others if they are not as careful as the map's. None where the rest is dropped.

    Raises:
        InputError: If ``tokens`` are given where the rest is dropped: other rows there would be of nothing.
    """

    name: ClassVar[str] = "omp"
    needs: ClassVar[Needs] = "donor"
    k: int = 8
    rest: Literal["mapped", "dropped"] = "mapped"
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Say how many are combined: a manifest keeps it."""
        if self.rest == "dropped" and self.tokens is not None:
            raise InputError("method omp: tokens goes with rest=mapped; with rest=dropped all new tokens are combined")
        if self.rest == "mapped" and self.tokens is None:
            object.__setattr__(self, "tokens", _COMBINED)

    def combined(self, n: int) -> int:
        """How many of n new tokens are combined."""
        return n if self.tokens is None else min(n, self.tokens)

    def of_some(self, ids: Ids, new: Ids) -> Omp:
        """The method for some tokens, which are combined if they would be among all new ones; ids ascend."""
        if self.tokens is None:
            return self
        return replace(self, tokens=int((ids <= new[: self.tokens].max(initial=-1)).sum()))

    def fit(self, space: DonorSpace, resources: Resources) -> Weights | Completed:
        """Solve; under ``torchrun`` every rank takes its share."""
        weights = Weights(
            solve_in_shares(
                space.targets[: self.combined(len(space.targets))],
                space.anchors,
                self.k,
                exact=resources.exact,
                memory=resources.memory,
                device=resources.device,
                progress=resources.progress,
            )
        )
        return weights if self.rest == "dropped" else Completed(weights, Mapped(space))
