"""Make rows as a sparse mean of anchors by similarity: ``focus`` (arXiv 2305.14481, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokensurgeon.baselines.neighbours import cosines
from tokensurgeon.transfer.combine import Weights, compared
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources, Space

__all__ = ["Focus", "sparsemax"]

_FIRST = 256


@dataclass(frozen=True, slots=True)
class Focus:
    """w = sparsemax(cos(token, anchors)).

    Attributes:
        space: Where tokens are compared: the ``donor``'s embedding, or ``fasttext`` vectors of the donor's tokens,
            trained on text that the donor's tokenizer has cut (the paper's way).
    """

    name: ClassVar[str] = "focus"
    space: Space = "donor"

    @property
    def needs(self) -> Needs:
        """The donor's rows, or fastText vectors."""
        return self.space

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Weigh the anchors; how many count is the token's own affair."""
        both = compared(space, self.space)
        # What has no vector is equally far from everything: all sources would count.
        real = torch.nonzero(both.targets.any(dim=1)).flatten()
        found = [sparsemax(cosine) for cosine in cosines(both.targets[real], both.sources, resources)]
        width = max((index.shape[1] for index, _ in found), default=1)
        indices = torch.zeros(len(both.targets), width, dtype=torch.int64)
        weights = torch.zeros(len(both.targets), width)
        start = 0
        for index, weight in found:
            some = real[start : start + len(index)]
            indices[some, : index.shape[1]], weights[some, : index.shape[1]] = index.cpu(), weight.cpu()
            start += len(index)
        return both.weights(indices, weights, resources)


def sparsemax(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean projection of every row onto the simplex (Martins and Astudillo 2016, algorithm 1).

    Args:
        scores: (n, m) float32.

    Returns:
        (n, s) int64 indices and (n, s) float32 weights; s is the largest support, the rest weighs 0.
    """
    m = scores.shape[1]
    width = min(_FIRST, m)
    while True:
        top, index = scores.topk(width, dim=1)
        rank = torch.arange(1, width + 1, device=scores.device)
        total = top.double().cumsum(dim=1)
        support = (1 + rank * top.double() > total).sum(dim=1)
        if width == m or int(support.max()) < width:
            break
        width = min(4 * width, m)
    threshold = (total.gather(1, support[:, None] - 1) - 1) / support[:, None]
    weights = (top.double() - threshold).clamp(min=0).float()
    widest = int(support.max())
    return torch.where(weights > 0, index, 0)[:, :widest], weights[:, :widest]
