"""Learn the rows of tokens that a model gets in addition to its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Ids, align
from tokensurgeon.baselines import make_method
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.progress import Progress
from tokensurgeon.surgery.options import ExtendOptions
from tokensurgeon.transfer.damage import refuse_damaged, refuse_uniform
from tokensurgeon.transfer.protocol import DonorSpace, Method, Pieces, Resources, Use
from tokensurgeon.transfer.rows import LearntRows, RowMaker, VocabularyMatrices
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["ExtendedRows", "learn_rows"]


@dataclass(frozen=True, slots=True)
class ExtendedRows:
    """Rows of new tokens.

    Attributes:
        rows: Gives them.
        by_donor: How many of them the donor has.
        donor: What the manifest says of the donor; None without one.
    """

    rows: RowMaker
    by_donor: int = 0
    donor: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Either:
    """Rows by one of two, each in its own order; ``which`` (n_targets,) bool says whose a row is."""

    which: torch.Tensor
    first: RowMaker
    second: RowMaker

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:
        rows = torch.empty(len(self.which), matrix.shape[1])
        rows[self.which] = torch.cat(list(self.first.blocks(matrix, use)))
        rows[~self.which] = torch.cat(list(self.second.blocks(matrix, use)))
        yield rows


def learn_rows(
    base: OpenModel,
    old: VocabularyMatrices,
    extended: OpenModel,
    new: Ids,
    options: ExtendOptions,
    progress: Progress | None,
) -> ExtendedRows:
    """Fit the method on the donor, where there is one; tokens that it lacks are made of their pieces.

    Args:
        base: The model.
        old: Its rows.
        extended: Its tokenizer with the new tokens.
        new: (n,) their ids.
        options: The method and its surroundings.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the donor has none of the new tokens, or shares too few with the model.
    """
    if options.donor is None:
        return ExtendedRows(_by_text(base, extended, new, options.reconstruction(), options.seed))
    donor = OpenModel.open(options.donor, "vocabulary")
    donor.refuse_misfit()
    source = align(donor.vocabulary, extended.vocabulary, base_rows=donor.layout.rows).plan.source
    anchors, known = np.flatnonzero(source[: new[0]] >= 0), source[new] >= 0
    if not known.any():
        raise InputError(f"{options.donor} has none of the {len(new)} new tokens. Leave out --donor")
    method = options.reconstruction()
    if (k := getattr(method, "k", 1)) > len(anchors):
        raise InputError(f"k={k} exceeds the {len(anchors)} tokens that both models have. Choose a smaller --k")
    theirs = donor.matrices()
    needed = source[np.concatenate([anchors, new[known]])]
    refuse_damaged("donor", theirs if old.head is not None else replace(theirs, head=None), needed)
    refuse_uniform(donor.name, theirs.embedding, needed)
    targets, atoms = torch.from_numpy(source[new[known]]), torch.from_numpy(source[anchors])
    head = None
    if old.head is not None and theirs.head is not None:
        head = DonorSpace(theirs.head[targets], theirs.head[atoms])
    rows: RowMaker = LearntRows.of(
        method,
        torch.from_numpy(anchors),
        DonorSpace(theirs.embedding[targets], theirs.embedding[atoms]),
        head,
        options.resources(pick_device(options.device)),
        progress,
    )
    if not known.all():
        rest = _by_text(base, extended, new[~known], make_method("subtoken"), options.seed)
        rows = _Either(torch.from_numpy(known), rows, rest)
    return ExtendedRows(rows, int(known.sum()), donor.described())


def _by_text(base: OpenModel, extended: OpenModel, new: Ids, method: Method, seed: int) -> LearntRows:
    """By a method that asks no donor."""
    pieces = None
    if method.needs == "text":
        pieces = Pieces.of(base_pieces(base.vocabulary, extended.vocabulary, new.tolist(), base.layout.rows))
    nothing = torch.zeros(0, dtype=torch.int64)
    return LearntRows.of(method, nothing, DonorSpace.without_donor(len(new), pieces), None, Resources(seed=seed))
