"""RMM: several models as one basis, from which each comes back (Alipour and Amiri 2025, arXiv 2510.14163)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokensurgeon.errors import InputError
from tokensurgeon.merging.methods.tensors import stacked

__all__ = ["pack", "unpack"]


def pack(tensors: Sequence[torch.Tensor], keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the few tensors of which n tensors are linear combinations, as nearly as can be.

    They are the leading right singular vectors of the n tensors as rows, so that what comes back differs by the
    singular values that are left out: the sum of squared differences is the sum of their squares. With ``keep`` = n
    nothing is left out.

    Args:
        tensors: n of one shape: the same factor of n adapters.
        keep: Tensors of the basis.

    Returns:
        Basis (keep, *shape), orthonormal, and coefficients (n, keep), both float64. The basis is smaller where the
        tensors have less than ``keep`` entries.

    Raises:
        InputError: If shapes differ, or ``keep`` is less than 1 or above n.
    """
    if not 1 <= keep <= len(tensors):
        raise InputError(f"keep is {keep}; it is of how many tensors the {len(tensors)} are made, 1 at least")
    rows = stacked([tensor.double() for tensor in tensors])
    u, s, vt = torch.linalg.svd(rows.flatten(1), full_matrices=False)
    return vt[:keep].reshape(-1, *rows.shape[1:]), u[:, :keep] * s[:keep]


def unpack(basis: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Combine the basis (k, *shape) by the coefficients (k,) of one tensor, or (n, k) of all, in float64."""
    combined: torch.Tensor = torch.tensordot(coefficients.double(), basis.double(), dims=1)
    return combined
