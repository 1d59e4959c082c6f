"""Decide what a row of an aligned model is (own, trained, made by a transplant, silent), and whose the output gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.errors import InputError
from tokensurgeon.merging.recipe import Embeddings

__all__ = [
    "GIVEN", "MEAN", "METHOD", "Kind", "Kinds", "RowChoice", "choose_rows", "filled", "followed", "kinds_of",
    "never_emitted",
]  # fmt: skip

Kinds = np.ndarray[Any, np.dtype[np.int8]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


METHOD, MEAN, GIVEN = -1, -2, -3
"""Instead of a model's number: what the method gives, the mean, and the row that a recipe names."""


class Kind(IntEnum):
    """From best to worst: a row of the first kind is worth more than one of the others."""

    OWN = 0
    """The model's own row, of a token that it knows, or knows to be dead."""
    TRAINED = 1
    """A transplant made it, and training since; worth as much as an own one."""
    MADE = 2
    """A transplant made it from other rows."""
    SILENT = 3
    """A transplant made it so that it takes no probability."""


_OF_NATURE = np.array(
    [
        {Provenance.TRAINED: Kind.TRAINED, Provenance.RECONSTRUCTED: Kind.MADE,
         Provenance.UNREACHABLE: Kind.SILENT}.get(p, Kind.OWN)
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
    if transplant is not None and before is not None:
        return followed(_OF_NATURE[before.nature], transplant)
    return np.zeros(rows, dtype=np.int8) if shown is None else _OF_NATURE[shown.nature]


def followed(kinds: Kinds, made: Manifest) -> Kinds:
    """The kinds of the rows of a model that was made from another: what was copied is what it was there."""
    found: Kinds = _OF_NATURE[made.nature]
    found[made.plan.copied] = kinds[made.plan.source[made.plan.copied]]
    return found


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Whose row every token gets, for one tensor.

    Attributes:
        taken: (n_rows,) int64, the number of the model whose row is taken; -1 where the method merges, -2 where the
            mean is taken, -3 where the recipe names a row.
        kinds: (n_rows,) int8, the kind of the row that comes out.
        differing: Rows that some models know and others do not.
        counted: (n_models, n_rows) bool, whose rows a mean is of.
    """

    taken: Ids
    kinds: Kinds
    differing: int
    counted: Flags


def never_emitted(transplant: Manifest | None) -> Flags | None:
    """(n_rows,) bool: ids that the owner's tokenizer never gives, as a transplant into them found."""
    dead = Provenance.UNREACHABLE, Provenance.PADDING
    return None if transplant is None else np.isin(transplant.plan.provenance, dead)


def choose_rows(
    kinds: Sequence[Kinds],
    embeddings: Embeddings,
    base: int | None,
    *,
    listed: bool = True,
    unused: Sequence[Flags | None] = (),
) -> RowChoice:
    """Decide for every row.

    A row of which all models have kinds of the same worth is merged by the method; but silent ones are averaged, since
    methods that drop or flip values would let them speak. A row whose id the owner's tokenizer never gives stays
    what it is in the first model that has the owner's ids, if there is one.

    Args:
        kinds: One array for each model that takes part, in the recipe's order.
        embeddings: ``first``: the first model whose row is of the best kind that there is. ``base``: the base.
            ``average``: the mean of all models that the recipe lists, silent rows left out.
        base: The base's number.
        listed: Whether the base is one of the recipe's models too; otherwise it is the last one here.
        unused: For each model what `never_emitted` gives: None for one that was not transplanted.

    Raises:
        InputError: If the base is to be taken and there is none.
    """
    given = np.stack(kinds)
    stacked = np.where(given == Kind.TRAINED, np.int8(Kind.OWN), given)  # they are worth the same
    best, worst = stacked.min(axis=0), stacked.max(axis=0)
    differing = best != worst
    owner = next((number for number, flags in enumerate(unused) if flags is None), None)
    dead = np.logical_or.reduce([flags for flags in unused if flags is not None] or [np.zeros_like(differing)])
    kept = dead & (best != Kind.SILENT) if owner is not None else np.zeros_like(differing)
    differing &= ~kept
    if embeddings == "base" and base is None and differing.any():
        raise InputError("embeddings=base takes rows from base_model, and the recipe has none. Use first or average")
    votes = np.array([listed or number != base for number in range(len(kinds))])
    counted = votes[:, None] & ((stacked != Kind.SILENT) | (best == Kind.SILENT))
    counted[~votes] |= ~counted.any(axis=0)  # the base alone can speak
    taken = np.full(stacked.shape[1], METHOD, dtype=np.int64)
    taken[(best == Kind.SILENT) & (len(kinds) > 1)] = MEAN
    number = np.full(len(taken), base) if embeddings == "base" and base is not None else stacked.argmin(axis=0)
    taken[differing] = MEAN if embeddings == "average" else number[differing]
    taken[kept] = METHOD if owner is None else owner
    chosen = np.take_along_axis(given, np.maximum(taken, 0)[None], axis=0)[0]
    alike = np.where((given == Kind.TRAINED).any(axis=0), np.int8(Kind.TRAINED), best)
    came_out = np.where(taken >= 0, chosen, np.where(differing, np.int8(Kind.MADE), alike))
    return RowChoice(taken, came_out, int(differing.sum()), counted)


def filled(merged: torch.Tensor, tensors: Sequence[torch.Tensor], choice: RowChoice) -> torch.Tensor:
    """The merged tensor with the chosen rows in place of the method's.

    Args:
        merged: (n_rows, ...) what the method gave.
        tensors: The models' own, in the order of `choose_rows`.
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
        total = torch.zeros(len(ids), *merged.shape[1:])
        shares = torch.from_numpy(choice.counted[:, ids.numpy()] / choice.counted[:, ids.numpy()].sum(axis=0)).float()
        for share, tensor in zip(shares, tensors, strict=True):
            total += tensor[ids].float() * share.reshape(-1, *[1] * (merged.ndim - 1))
        out[ids] = total.to(out.dtype)
    return out
