"""Make rows as a mean of the nearest anchors in the donor's space: ``neighbours`` and ``wechsel``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tokensurgeon.solver.scan import full_precision
from tokensurgeon.transfer.combine import Compared, Weights, compared
from tokensurgeon.transfer.protocol import DonorSpace, Needs, Resources, Space

__all__ = ["Neighbours", "Wechsel", "cosines"]

_ROWS = 512
"""Targets compared with all sources at a time."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The k nearest anchors.

    Attributes:
        k: Anchors per token.
        weights: ``softmax`` of cosine over ``temperature``, or ``inverse`` Euclidean distance.
        temperature: Of the softmax.
    """

    name: ClassVar[str] = "neighbours"
    needs: ClassVar[Needs] = "donor"
    k: int = 16
    weights: Literal["softmax", "inverse"] = "softmax"
    temperature: float = 0.1

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Find neighbours and weigh them."""
        both = compared(space, "donor", self.k)
        if self.weights == "softmax":
            return _softmax(both, resources, self.k, self.temperature)
        anchors = both.sources.to(resources.device, torch.float32)
        found = []
        for start in range(0, len(both.targets), _ROWS):
            with full_precision():
                distance = torch.cdist(both.targets[start : start + _ROWS].to(anchors), anchors)
            nearest, index = distance.topk(self.k, dim=1, largest=False)
            weight = 1 / nearest.clamp(min=1e-6)
            found.append((index.cpu(), (weight / weight.sum(dim=1, keepdim=True)).cpu()))
        return _joined(found, both, self.k, resources)


@dataclass(frozen=True, slots=True)
class Wechsel:
    """WECHSEL (arXiv 2112.06598, equations 3 and 4): w = softmax(cos / temperature) over the k nearest tokens.

    Attributes:
        k: Nearest tokens; 10 in the paper.
        temperature: 0.1 in the paper.
        space: Where tokens are compared: the ``donor``'s embedding, which knows the anchors only, or
            ``fasttext`` vectors of words, which know every token's text (the paper's way).
    """

    name: ClassVar[str] = "wechsel"
    k: int = 10
    temperature: float = 0.1
    space: Space = "donor"

    @property
    def needs(self) -> Needs:
        """The donor's rows, or fastText vectors."""
        return self.space

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Find neighbours and weigh them."""
        return _softmax(compared(space, self.space, self.k), resources, self.k, self.temperature)


def cosines(targets: torch.Tensor, sources: torch.Tensor, resources: Resources) -> Iterator[torch.Tensor]:
    """(some targets, n_sources) float32 cosines at a time; 0 with rows that are zero."""

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows.to(resources.device, torch.float32), dim=1)

    known, n = unit(sources), len(targets)
    for start in range(0, n, _ROWS):
        with full_precision():  # which rows are nearest must not hang on what a caller allows
            cosine = unit(targets[start : start + _ROWS]) @ known.T
        yield cosine
        if resources.progress is not None:
            resources.progress(min(start + _ROWS, n), n)


def _softmax(both: Compared, resources: Resources, k: int, temperature: float) -> Weights:
    found = []
    for cosine in cosines(both.targets, both.sources, resources):
        nearest, index = cosine.topk(k, dim=1)
        found.append((index.cpu(), (nearest / temperature).softmax(dim=1).cpu()))
    return _joined(found, both, k, resources)


def _joined(found: list[tuple[torch.Tensor, torch.Tensor]], both: Compared, k: int, resources: Resources) -> Weights:
    if not found:
        found = [(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))]
    indices, weights = (torch.cat(column) for column in zip(*found, strict=True))
    return both.weights(indices, weights, resources)
