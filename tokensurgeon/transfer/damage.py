"""Refuse matrices from which no rows can be made: NaN, infinity, or the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tokensurgeon.alignment import Ids
from tokensurgeon.errors import InputError
from tokensurgeon.solver.problem import damaged_rows

if TYPE_CHECKING:
    from tokensurgeon.transfer.rows import VocabularyMatrices

__all__ = ["refuse_damaged", "refuse_uniform"]

_CHECKED = 65_536


def refuse_damaged(whose: str, matrices: VocabularyMatrices, ids: Ids) -> None:
    """Refuse rows that hold NaN or infinity.

    Args:
        whose: Whose they are, for the message: ``base`` or ``donor``.
        matrices: Its vocabulary-sized tensors.
        ids: (n,) its ids whose rows are needed or kept; others may hold anything.

    Raises:
        InputError: Naming the first of these ids.
    """
    bias = None if matrices.bias is None else matrices.bias[:, None]
    named = {"embedding": matrices.embedding, "LM head": matrices.head, "LM head's bias": bias}
    for name, matrix in named.items():
        for some in torch.split(torch.from_numpy(ids), _CHECKED) if matrix is not None else ():
            if matrix is not None and len(bad := damaged_rows(matrix[some])):
                raise InputError(
                    f"rows of the {whose}'s {name} that the output needs hold NaN or infinity (first: {whose} id "
                    f"{int(some[bad[0]])}). The checkpoint is damaged; use another"
                )


def refuse_uniform(whose: str, matrix: torch.Tensor, ids: Ids) -> None:
    """Refuse an embedding whose rows say nothing: zeros, one value a row, or one row for all tokens.

    Args:
        whose: Whose it is, for the message: a model's name.
        matrix: (rows, dim) its input embedding.
        ids: (n,) its ids whose rows are needed.

    Raises:
        InputError: If all of these rows are so. A single one is nothing strange.
    """
    if len(ids) < 2:
        return
    chosen = torch.from_numpy(ids)
    first, flat, alike, highest = matrix[chosen[0]], True, True, 0.0
    for some in torch.split(chosen, _CHECKED):
        rows = matrix[some]
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        flat = flat and bool((low == high).all())
        alike = alike and bool((rows == first).all())
        highest = max(highest, float(high.abs().max()))
        if not flat and not alike:
            return
    what = "zeros" if flat and not highest else "one value in each row" if flat else "the same row"
    raise InputError(
        f"{whose}: its embedding holds nothing but {what} for the {len(ids)} tokens that are needed. It was never "
        "trained, or the checkpoint is damaged; use another"
    )
