"""Refuse what cannot be solved: shapes that do not fit, k out of range, rows that hold NaN or infinity."""

from __future__ import annotations

import torch

from tokensurgeon.errors import InputError

__all__ = ["check_problem", "damaged_rows"]


def damaged_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Positions of rows that hold NaN or infinity, without a copy of the matrix.

    Args:
        matrix: (n, dim), any floating dtype.

    Returns:
        int64, ascending.
    """
    good = torch.isfinite(matrix.amax(dim=1)) & torch.isfinite(matrix.amin(dim=1))  # both carry NaN on
    return torch.nonzero(~good).flatten()


def check_problem(targets: torch.Tensor, atoms: torch.Tensor, k: int) -> None:
    """Refuse what `solve_omp` cannot solve.

    Raises:
        InputError: On shapes that do not fit, non-finite values, or k out of range.
    """
    if targets.ndim != 2 or atoms.ndim != 2 or targets.shape[1] != atoms.shape[1]:
        raise InputError(
            f"targets {tuple(targets.shape)} and atoms {tuple(atoms.shape)} must be two matrices of equal width"
        )
    if not 1 <= k <= len(atoms):
        raise InputError(f"k={k} must be from 1 to the number of anchors, {len(atoms)}. Choose a smaller k")
    for name, tensor in (("target", targets), ("atom", atoms)):
        bad = damaged_rows(tensor)
        if len(bad):
            raise InputError(
                f"{len(bad)} {name} rows hold NaN or infinity (first: at position {int(bad[0])}). "
                "The embedding is damaged; repair it or use another checkpoint"
            )
