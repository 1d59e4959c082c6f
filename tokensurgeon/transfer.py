"""From coefficients over donor anchors to rows of the base."""

from __future__ import annotations

import torch

from tokensurgeon.omp import SparseCoefficients

__all__ = ["transfer"]


def transfer(coefficients: SparseCoefficients, base_anchors: torch.Tensor) -> torch.Tensor:
    """Apply the coefficients to the base's rows of the same anchors.

    Args:
        coefficients: ``n_targets`` combinations of ``n_anchors`` atoms.
        base_anchors: (n_anchors, dim) rows, in the order of the atoms; any floating dtype.

    Returns:
        (n_targets, dim) float32.
    """
    return torch.nn.functional.embedding_bag(
        coefficients.indices, base_anchors.float(), per_sample_weights=coefficients.values, mode="sum"
    )
