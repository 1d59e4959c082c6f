"""What a row of an aligned model is: the model's own, made by a transplant, or silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance
from tokensurgeon.errors import InputError
from tokensurgeon.manifest import Manifest
from tokensurgeon.merge.recipe import Embeddings

__all__ = ["MEAN", "METHOD", "Choice", "Kind", "Kinds", "choose", "filled", "kinds_of"]

Kinds = np.ndarray[Any, np.dtype[np.int8]]


METHOD, MEAN = -1, -2
"""Instead of a model's number: what the method gives, and the mean."""


class Kind(IntEnum):
    """From best to worst: a row of the first kind is worth more than one of the others."""

    OWN = 0
    """The model knows the token: its row has been trained with it."""
    MADE = 1
    """A transplant made it from other rows."""
    SILENT = 2
    """A transplant made it so that it takes no probability."""


_OF_PROVENANCE = np.array(
    [
        {Provenance.OVERRIDE: Kind.MADE, Provenance.RECONSTRUCTED: Kind.MADE,
         Provenance.UNREACHABLE: Kind.SILENT, Provenance.PADDING: Kind.SILENT}.get(p, Kind.OWN)
        for p in Provenance
    ],
    dtype=np.int8,
)  # fmt: skip


def kinds_of(rows: int, before: Manifest | None, transplant: Manifest | None) -> Kinds:
    """The kinds of an aligned model's rows.

    Args:
        rows: How many there are.
        before: The model's own manifest, if it came out of a transplant or merge itself.
        transplant: The manifest of the transplant that aligned it; None if it needed none.

    Returns:
        (rows,) int8, values of `Kind`. A row that was copied from a made one is a made one.
    """
    shown = transplant or before
    found: Kinds = np.zeros(rows, dtype=np.int8) if shown is None else _OF_PROVENANCE[shown.provenance]
    if transplant is not None and before is not None:
        copied = np.flatnonzero(transplant.source >= 0)
        found[copied] = _OF_PROVENANCE[before.provenance][transplant.source[copied]]
    return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Whose row every token gets, for one tensor.

    Attributes:
        taken: (n_rows,) int64, the number of the model whose row is taken; -1 where the method merges, -2 where the
            mean is taken.
        kinds: (n_rows,) int8, the kind of the row that comes out.
        differing: Rows that some models know and others do not.
    """

    taken: Ids
    kinds: Kinds
    differing: int


def choose(kinds: Sequence[Kinds], embeddings: Embeddings, base: int | None) -> Choice:
    """Decide for every row.

    A row of which all models have the same kind is merged by the method; but silent ones are averaged, since
    methods that drop or flip values would let them speak.

    Args:
        kinds: One array for each model that takes part, the base first.
        embeddings: ``first``: the first model whose row is of the best kind that there is. ``base``: the base.
            ``average``: the mean of all.
        base: The base's number.

    Raises:
        InputError: If the base shall be taken and there is none.
    """
    stacked = np.stack(kinds)
    best, worst = stacked.min(axis=0), stacked.max(axis=0)
    differing = best != worst
    if embeddings == "base" and base is None and differing.any():
        raise InputError("embeddings=base takes rows from base_model, and the recipe has none. Use first or average")
    taken = np.full(stacked.shape[1], METHOD, dtype=np.int64)
    taken[(best == Kind.SILENT) & (len(kinds) > 1)] = MEAN
    came_out = best.copy()
    if embeddings == "average":
        taken[differing], came_out[differing] = MEAN, Kind.MADE
    else:
        number = stacked.argmin(axis=0) if base is None or embeddings == "first" else np.full(len(taken), base)
        taken[differing] = number[differing]
        came_out[differing] = np.take_along_axis(stacked, number[None], axis=0)[0][differing]
    return Choice(taken, came_out, int(differing.sum()))


def filled(merged: torch.Tensor, tensors: Sequence[torch.Tensor], choice: Choice) -> torch.Tensor:
    """The merged tensor with the chosen rows in place of the method's.

    Args:
        merged: (n_rows, ...) what the method gave.
        tensors: The models' own, in the order of `choose`.
        choice: What it gave.

    Returns:
        A tensor of ``merged``'s dtype; means are taken in float32.
    """
    out = merged.clone()
    for number, tensor in enumerate(tensors):
        ids = torch.from_numpy(np.flatnonzero(choice.taken == number))
        out[ids] = tensor[ids].to(out.dtype)
    ids = torch.from_numpy(np.flatnonzero(choice.taken == MEAN))
    if len(ids):
        total = sum((tensor[ids].float() for tensor in tensors), torch.zeros(len(ids), *merged.shape[1:]))
        out[ids] = (total / len(tensors)).to(out.dtype)
    return out
