"""Learn the rows of tokens that a model gets in addition to its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from tokensurgeon.surgery.special_rows import control_ids, word_ids
from tokensurgeon.transfer.damage import refuse_damaged, refuse_uniform
from tokensurgeon.transfer.diagnose import describe_outliers
from tokensurgeon.transfer.learnt import LearntRows, RowMaker
from tokensurgeon.transfer.outliers import Guarded
from tokensurgeon.transfer.protocol import DonorSpace, Method, Pieces, Resources, Use
from tokensurgeon.transfer.rows import VocabularyMatrices, sound_ids
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["ExtendedRows", "learn_rows"]

Flags = np.ndarray[Any, np.dtype[np.bool_]]
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class ExtendedRows:
    """Rows of new tokens.

    Attributes:
        rows: Gives them.
        by_donor: How many of them the donor has.
        donor: What the manifest says of the donor; None without one.
        special: What the row of each special token was made of, by id.
        guarded: The rows by the donor, with what is found in them; None without one.
        by_donor_ids: (by_donor,) ids of these rows.
        odd: (n,) ids of tokens that both models have and that are no atoms, for the length of the donor's rows.
    """

    rows: RowMaker
    by_donor: int
    donor: dict[str, Any] | None
    special: dict[int, str]
    guarded: Guarded | None
    by_donor_ids: Ids
    odd: Ids

    def outliers(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """For the manifest, once the rows are made."""
        found = () if self.guarded is None else self.guarded.outliers(self.by_donor_ids)
        return describe_outliers(vocabulary, self.by_donor, found, self.odd)


@dataclass(frozen=True, slots=True)
class _Grouped:
    """Rows by several makers, each with a part of the tokens in its own order.

    Attributes:
        n: All tokens.
        groups: (n,) bool, whose rows a maker gives, and the maker.
    """

    n: int
    groups: list[tuple[torch.Tensor, RowMaker]]

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:
        rows = torch.empty(self.n, matrix.shape[1])
        for which, maker in self.groups:
            rows[which] = torch.cat(list(maker.blocks(matrix, use)))
        yield rows


def learn_rows(
    base: OpenModel,
    old: VocabularyMatrices,
    extended: OpenModel,
    new: Ids,
    special: Mapping[str, int],
    options: ExtendOptions,
    progress: Progress | None,
) -> ExtendedRows:
    """Fit the method on the donor, where there is one; tokens that it lacks are made of their pieces.

    A special token's row is the mean of the rows of the words that it stands for; without words, the donor's literal
    gives it; without that, it is the mean of the model's own control rows.

    Args:
        base: The model.
        old: Its rows.
        extended: Its tokenizer with the new tokens.
        new: (n,) their ids.
        special: Those of them that are special, by literal.
        options: The method and its surroundings.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If the donor has none of the new tokens, or shares too few with the model.
    """
    n_text = len(new) - len(special)
    method, by_donor, donor = options.reconstruction(), np.zeros(len(new), dtype=bool), None
    groups: list[tuple[torch.Tensor, RowMaker]] = []
    guarded, odd = None, np.zeros(0, dtype=np.int64)
    if options.donor is not None:
        donor = OpenModel.open(options.donor, "vocabulary")
        donor.refuse_misfit()
        first = len(base.vocabulary)
        source, by_donor = _shared(donor, extended, new, special, options)
        pieces = _pieces_of(base, extended, new[by_donor])
        learnt, odd = _by_donor(donor, old, source, first, new[by_donor], pieces, options, progress)
        guarded = Guarded(learnt, len(pieces), pieces)
        groups.append((torch.from_numpy(by_donor), guarded))
        method = make_method("subtoken")
    is_text = np.arange(len(new)) < n_text
    if (rest := is_text & ~by_donor).any():
        groups.append((torch.from_numpy(rest), _by_text(base, extended, new[rest], method, options.seed)))
    said, words = _special_pieces(base, old, list(special), by_donor[n_text:], options)
    if (rest := ~is_text & ~by_donor).any():
        nothing = torch.zeros(0, dtype=torch.int64)
        space = DonorSpace.without_donor(len(words), Pieces.of(words))
        groups.append(
            (torch.from_numpy(rest), LearntRows.of(make_method("subtoken"), nothing, space, None, Resources()))
        )
    described = None if donor is None else donor.described()
    named = {special[literal]: how for literal, how in said.items()}
    rows = _Grouped(len(new), groups)
    return ExtendedRows(rows, int(by_donor.sum()), described, named, guarded, new[by_donor], odd)


def _special_pieces(
    base: OpenModel, old: VocabularyMatrices, literals: list[str], by_donor: Flags, options: ExtendOptions
) -> tuple[dict[str, str], list[list[int]]]:
    """For each literal what its row is made of, and for those that no donor has the ids whose mean it is."""
    said: dict[str, str] = {}
    pieces: list[list[int]] = []
    control: list[int] | None = None
    for literal, theirs in zip(literals, by_donor.tolist(), strict=True):
        if theirs:
            said[literal] = f"{options.donor}'s row, by {options.method}"
        elif words := options.special.get(literal):
            pieces.append(word_ids(base.vocabulary, literal, words, base.layout.rows))
            said[literal] = f"mean of the rows of {' '.join(map(base.vocabulary.describe, pieces[-1]))}"
        else:
            if control is None:
                control = control_ids(base.vocabulary, base.tokenizer.chat_template, old.embedding)
            pieces.append(control)  # none: the mean of all rows
            names = ", ".join(map(base.vocabulary.describe, control[:_SHOWN])) + (", ..." if control[_SHOWN:] else "")
            said[literal] = f"mean of the control rows {names}" if control else "mean of all rows"
    return said, pieces


def _shared(
    donor: OpenModel,
    extended: OpenModel,
    new: Ids,
    special: Mapping[str, int],
    options: ExtendOptions,
) -> tuple[Ids, Flags]:
    """The donor's id of each of the model's, -1 for none, and (n,) bool which of the new tokens it has."""
    plan = align(donor.vocabulary, extended.vocabulary, base_rows=donor.layout.rows).plan
    source = np.full(plan.n_rows, -1, dtype=np.int64)
    source[plan.anchors] = plan.source[plan.anchors]  # dead rows say nothing
    known_literals = donor.vocabulary.literal_ids(donor.layout.rows)
    for literal, token_id in special.items():  # by the literal, which may be an ordinary added token there
        source[token_id] = -1 if options.special.get(literal) else known_literals.get(literal.encode(), -1)
    theirs = source[new] >= 0
    if not theirs.any():
        raise InputError(f"{options.donor} has none of the {len(new)} new tokens. Leave out --donor")
    return source, theirs


def _by_donor(
    donor: OpenModel,
    old: VocabularyMatrices,
    source: Ids,
    first: int,
    new: Ids,
    pieces: Pieces,
    options: ExtendOptions,
    progress: Progress | None,
) -> tuple[LearntRows, Ids]:
    """Rows of the new tokens that the donor has, and shared ids that are no atoms."""
    anchors = np.flatnonzero(source[:first] >= 0)
    theirs, method = donor.matrices(), options.reconstruction()
    sound = np.isin(source[anchors], sound_ids(theirs, source[anchors]))
    anchors, odd = anchors[sound], anchors[~sound]
    if (k := getattr(method, "k", 1)) > len(anchors):
        raise InputError(f"k={k} exceeds the {len(anchors)} tokens that both models have. Choose a smaller --k")
    needed = source[np.concatenate([anchors, new])]
    refuse_damaged("donor", theirs if old.head is not None else replace(theirs, head=None), needed)
    refuse_uniform(donor.name, theirs.embedding, needed)
    targets, atoms = torch.from_numpy(source[new]), torch.from_numpy(source[anchors])
    head = None
    if old.head is not None and theirs.head is not None:
        head = DonorSpace(theirs.head[targets], theirs.head[atoms], pieces)
    rows = LearntRows.of(
        method,
        torch.from_numpy(anchors),
        DonorSpace(theirs.embedding[targets], theirs.embedding[atoms], pieces),
        head,
        options.resources(pick_device(options.device)),
        progress,
    )
    return rows, odd


def _pieces_of(base: OpenModel, extended: OpenModel, ids: Ids) -> Pieces:
    """New tokens in the base's own."""
    return Pieces.of(base_pieces(base.vocabulary, extended.vocabulary, ids.tolist(), base.layout.rows))


def _by_text(base: OpenModel, extended: OpenModel, new: Ids, method: Method, seed: int) -> LearntRows:
    """By a method that asks no donor."""
    pieces = _pieces_of(base, extended, new) if method.needs == "text" else None
    nothing = torch.zeros(0, dtype=torch.int64)
    return LearntRows.of(method, nothing, DonorSpace.without_donor(len(new), pieces), None, Resources(seed=seed))
