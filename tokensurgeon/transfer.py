"""From coefficients over donor anchors to rows of the base."""

from __future__ import annotations

import torch

from tokensurgeon.omp import SparseCoefficients

__all__ = ["transfer"]

_CHUNK = 1024


def transfer(coefficients: SparseCoefficients, base_anchors: torch.Tensor) -> torch.Tensor:
    """Apply the coefficients to the base's rows of the same anchors.

    Args:
        coefficients: ``n_targets`` combinations of ``n_anchors`` atoms.
        base_anchors: (n_anchors, dim) rows, in the order of the atoms; any floating dtype.

    Returns:
        (n_targets, dim) float32.
    """
    n = len(coefficients.indices)
    rows = torch.empty(n, base_anchors.shape[1])
    for start in range(0, n, _CHUNK):
        part = slice(start, start + _CHUNK)
        picked = base_anchors[coefficients.indices[part]].float()
        rows[part] = torch.bmm(coefficients.values[part, None], picked)[:, 0]
    return rows
