"""Rows that are damaged: NaN or infinite somewhere."""

from __future__ import annotations

import torch

__all__ = ["damaged_rows"]


def damaged_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Positions of rows that hold NaN or infinity, without a copy of the matrix.

    Args:
        matrix: (n, dim), any floating dtype.

    Returns:
        int64, ascending.
    """
    good = torch.isfinite(matrix.amax(dim=1)) & torch.isfinite(matrix.amin(dim=1))  # both carry NaN on
    return torch.nonzero(~good).flatten()
