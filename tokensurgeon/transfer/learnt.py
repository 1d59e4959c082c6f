"""Hold what a method learnt, for the input embedding and for the LM head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from tokensurgeon.progress import Progress, Stage
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.transfer.combine import weights_of
from tokensurgeon.transfer.protocol import BaseRows, DonorSpace, Fitted, Method, Resources, Use

__all__ = ["LearntRows", "RowMaker"]


class RowMaker(Protocol):
    """What gives the rows of the reconstructed tokens."""

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:
        """(some targets, dim) float32 at a time, in their order, for one of the base's matrices."""
        ...


@dataclass(frozen=True, slots=True)
class LearntRows:
    """What a method learnt for the input embedding and for the LM head.

    Attributes:
        known: (n_anchors,) int64 base ids of the anchors.
        shared: For the input; for the head too, where the donor has none of its own.
        head: For the head, from the donor's own.
        empty: (n_targets,) bool, tokens whose row in the donor's head is zero and says nothing: `shared` makes theirs.
    """

    known: torch.Tensor
    shared: Fitted
    head: Fitted | None = None
    empty: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        method: Method,
        known: torch.Tensor,
        embedding: DonorSpace,
        head: DonorSpace | None,
        resources: Resources,
        progress: Progress | None = None,
    ) -> LearntRows:
        """Fit a method on the donor's input embedding, and on its head if it is given.

        Args:
            method: How tokens are reconstructed.
            known: (n_anchors,) int64 base ids of the anchors.
            embedding: Targets and anchors in the donor's input embedding.
            head: The same tokens in its LM head; None where the head's rows come from ``embedding`` too.
            resources: Device, memory, exactness and seed.
            progress: Called with (stage, rows done, rows in all).
        """

        def fit(space: DonorSpace, stage: Stage) -> Fitted:
            tell = None if progress is None else (lambda done, total: progress(stage, done, total))
            return method.fit(replace(space, ids=known), replace(resources, progress=tell))

        shared = fit(embedding, Stage.EMBEDDING)
        if head is None:
            return cls(known, shared)
        return cls(known, shared, fit(head, Stage.HEAD), head.targets.abs().amax(dim=1) == 0)

    @property
    def coefficients(self) -> dict[str, SparseCoefficients]:
        """By tensor, for methods that combine tokens of the base."""
        fitted = {"embedding": self.shared} | ({} if self.head is None else {"head": self.head})
        found = {name: weights_of(one) for name, one in fitted.items()}
        return {name: weights.coefficients for name, weights in found.items() if weights is not None}

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:
        """See `RowMaker`."""
        side = BaseRows(matrix, matrix[self.known], use)
        if use != "head" or self.head is None or self.empty is None:
            yield from self.shared.blocks(side)
        elif not bool(self.empty.any()):
            yield from self.head.blocks(side)
        else:
            start = 0
            for own, other in zip(self.head.blocks(side), self.shared.blocks(side), strict=True):
                yield torch.where(self.empty[start : start + len(own), None], other, own)
                start += len(own)
