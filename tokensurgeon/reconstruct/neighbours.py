"""``neighbours`` and ``wechsel``: a mean of the nearest anchors in the donor's space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from tokensurgeon.omp import check_problem
from tokensurgeon.reconstruct.protocol import DonorSpace, Resources, Weights, with_residual

__all__ = ["Neighbours", "Wechsel", "cosines"]

_ROWS = 512
"""Targets compared with all anchors at a time."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The k nearest anchors.

    Attributes:
        k: Anchors per token.
        weights: ``softmax`` of cosine over ``temperature``, or ``inverse`` Euclidean distance.
        temperature: Of the softmax.
    """

    k: int = 16
    weights: Literal["softmax", "inverse"] = "softmax"
    temperature: float = 0.1

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Find neighbours and weigh them."""
        check_problem(space.targets, space.anchors, self.k)
        if self.weights == "softmax":
            return _softmax(space, resources, self.k, self.temperature)
        anchors = space.anchors.to(resources.device, torch.float32)
        found = []
        for start in range(0, len(space.targets), _ROWS):
            distance = torch.cdist(space.targets[start : start + _ROWS].to(anchors), anchors)
            nearest, index = distance.topk(self.k, dim=1, largest=False)
            weight = 1 / nearest.clamp(min=1e-6)
            found.append((index.cpu(), (weight / weight.sum(dim=1, keepdim=True)).cpu()))
        return _joined(found, space, self.k)


@dataclass(frozen=True, slots=True)
class Wechsel:
    """WECHSEL (arXiv 2112.06598, equations 3 and 4), with the donor's embedding as the shared space.

    w = softmax(cos / temperature) over the k nearest tokens that are known on both sides.

    Attributes:
        k: Nearest tokens; 10 in the paper.
        temperature: 0.1 in the paper.
    """

    k: int = 10
    temperature: float = 0.1

    def fit(self, space: DonorSpace, resources: Resources) -> Weights:
        """Find neighbours and weigh them."""
        check_problem(space.targets, space.anchors, self.k)
        return _softmax(space, resources, self.k, self.temperature)


def cosines(space: DonorSpace, resources: Resources) -> Iterator[torch.Tensor]:
    """(some targets, n_anchors) float32 cosines at a time; 0 with rows that are zero."""

    def unit(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows.to(resources.device, torch.float32), dim=1)

    anchors, n = unit(space.anchors), len(space.targets)
    for start in range(0, n, _ROWS):
        yield unit(space.targets[start : start + _ROWS]) @ anchors.T
        if resources.progress is not None:
            resources.progress(min(start + _ROWS, n), n)


def _softmax(space: DonorSpace, resources: Resources, k: int, temperature: float) -> Weights:
    found = []
    for cosine in cosines(space, resources):
        nearest, index = cosine.topk(k, dim=1)
        found.append((index.cpu(), (nearest / temperature).softmax(dim=1).cpu()))
    return _joined(found, space, k)


def _joined(found: list[tuple[torch.Tensor, torch.Tensor]], space: DonorSpace, k: int) -> Weights:
    if not found:
        found = [(torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k))]
    indices, weights = (torch.cat(column) for column in zip(*found, strict=True))
    return Weights(with_residual(indices, weights, space))
