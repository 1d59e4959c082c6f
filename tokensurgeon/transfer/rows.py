"""Make the new vocabulary-sized tensors from tensors and an alignment alone: no files, no tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tokensurgeon.alignment import Alignment, Blend, Ids, Provenance, RowPlan
from tokensurgeon.progress import Progress
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.transfer.damage import refuse_damaged, refuse_uniform
from tokensurgeon.transfer.learnt import LearntRows, RowMaker
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.outliers import Guarded, Outlier, sound_anchors
from tokensurgeon.transfer.protocol import Auxiliary, DonorSpace, Method, Pieces, Resources, Use
from tokensurgeon.transfer.states import HeadStates
from tokensurgeon.transfer.statistics import row_norms

__all__ = [
    "SUPPRESSED_BIAS", "NewRows", "VocabularyMatrices", "assemble", "atom_ids", "blended", "build_rows",
    "drop_rowless", "odd_anchors", "sound_ids",
]  # fmt: skip

SUPPRESSED_BIAS = -1e4


@dataclass(frozen=True, slots=True)
class VocabularyMatrices:
    """A model's vocabulary-sized tensors.

    Attributes:
        embedding: (rows, dim) input embedding.
        head: (rows, dim) LM head; None where it is the input embedding.
        bias: (rows,) bias of the head, if it has one.
    """

    embedding: torch.Tensor
    head: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class NewRows:
    """The result.

    Attributes:
        matrices: As the base's, with as many rows as the plan has and the base's dtypes.
        coefficients: What the reconstructed rows are made of, by tensor (``embedding``, ``head``);
            atoms are positions in ``atoms``. Empty for methods that do not combine tokens of the base.
        atoms: (n_atoms,) int64 base ids.
        outliers: Tokens whose rows are none of the method's, the worst first.
    """

    matrices: VocabularyMatrices
    coefficients: dict[str, SparseCoefficients]
    atoms: torch.Tensor
    outliers: tuple[Outlier, ...] = ()


def build_rows(
    base: VocabularyMatrices,
    donor: VocabularyMatrices,
    alignment: Alignment,
    *,
    method: Method | None = None,
    pieces: Sequence[Sequence[int]] | None = None,
    auxiliary: Auxiliary | None = None,
    untie: bool = False,
    suppressing: torch.Tensor | None = None,
    states: HeadStates | None = None,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> NewRows:
    """Copy the anchors, reconstruct the new tokens, silence the rest.

    A tied base gets one matrix, from the donor's input embedding. An untied one gets both: the head
    from the donor's own head, or from what was learnt for the input where the donor is tied. Rows by a donor that
    are beyond what the base's rows are like are made of the token's pieces instead, see
    `tokensurgeon.transfer.outliers`.

    Args:
        base: Tensors of the model that keeps its body.
        donor: Tensors of the model that gives the tokenizer; its dim may differ.
        alignment: Provenance of every output row.
        method: How tokens are reconstructed; by default OMP with k=8.
        pieces: Base ids of every reconstructed token's text, for methods that go by text, if only in part, and for
            outliers, which become the mean of all rows without it.
        auxiliary: Vectors by which a method compares tokens instead of the donor's.
        untie: Give a tied base a head of its own.
        suppressing: (dim,) row for unreachable and padding ids; zeros if not given.
        states: What the base's head sees on text, to find rows that are likely everywhere.
        resources: Device, memory, exactness and seed of the reconstruction.
        progress: Called with (stage, rows done, rows in all).

    Raises:
        InputError: If the method cannot solve the problem, or rows that are needed are not finite.

    Example:
        >>> import numpy as np, tokensurgeon, torch
        >>> from tokensurgeon.alignment import Alignment, Provenance, RowPlan
        >>> from tokensurgeon.transfer.omp import Omp
        >>> from tokensurgeon.transfer.rows import VocabularyMatrices
        >>> new = Provenance.RECONSTRUCTED
        >>> plan = RowPlan(np.array([0, 0, new], dtype=np.int8), np.array([0, 1, -1]))  # two copied, one made
        >>> base = VocabularyMatrices(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        >>> donor = VocabularyMatrices(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
        >>> made = tokensurgeon.build_rows(base, donor, Alignment(plan, {}, ()), method=Omp(k=2))
        >>> made.matrices.embedding.round(decimals=3)
        tensor([[2., 0.],
                [0., 4.],
                [1., 2.]])
    """
    plan = alignment.plan
    refuse_damaged("base", base, plan.source[plan.copied])
    atoms = torch.from_numpy(atom_ids(plan, donor))
    known = torch.from_numpy(plan.source)[atoms]
    targets = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    method = method or Omp()
    if method.needs == "donor" and len(targets):
        refuse_uniform("the donor", donor.embedding, torch.cat([atoms, targets]).numpy())
        for matrix in (base.embedding, base.head):
            if matrix is not None:
                refuse_uniform("the base", matrix, known.numpy())
    cut = Pieces.of(pieces) if pieces is not None else None
    own = donor.head if (base.head is not None or untie) and auxiliary is None else None
    learnt = LearntRows.of(
        method,
        known,
        DonorSpace(donor.embedding[targets], donor.embedding[atoms], cut, auxiliary),
        None if own is None else DonorSpace(own[targets], own[atoms], cut),
        resources or Resources(),
        progress,
    )
    rows: RowMaker = learnt
    guarded = Guarded(learnt, len(targets), cut, states, base.bias)
    if method.needs not in ("nothing", "text"):  # the others ask no donor
        rows = guarded
    matrices = assemble(base, plan, rows, blends=alignment.blends, untie=untie, suppressing=suppressing)
    guarded.settle(matrices.embedding, base.embedding, targets.numpy())
    known = known if auxiliary is None else auxiliary.ids
    return NewRows(matrices, learnt.coefficients, known, guarded.outliers(targets.numpy()))


def assemble(
    base: VocabularyMatrices,
    plan: RowPlan,
    new: RowMaker,
    *,
    blends: Mapping[int, Blend] | None = None,
    untie: bool = False,
    suppressing: torch.Tensor | None = None,
) -> VocabularyMatrices:
    """Put copied, reconstructed and silent rows together, in the base's dtypes.

    Args:
        base: Tensors of the model that keeps its body.
        plan: Where every row comes from.
        new: Gives the rows of the reconstructed tokens.
        blends: Output id to the base ids whose mean row it takes.
        untie: Give a tied base a head of its own.
        suppressing: (dim,) row for unreachable and padding ids; zeros if not given.
    """
    targets = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    silent = torch.zeros(base.embedding.shape[1]) if suppressing is None else suppressing

    def filled(source: torch.Tensor, use: Use, quiet: torch.Tensor) -> torch.Tensor:
        rows, start = _known(source, plan, quiet, blends or {}, use), 0
        limits = torch.finfo(rows.dtype).min, torch.finfo(rows.dtype).max  # float16 has 65,504
        for block in new.blocks(source, use):
            rows[targets[start : start + len(block)]] = block.clamp(*limits).to(rows.dtype)
            start += len(block)
        return rows

    if base.head is None and not untie:
        embedding, head = filled(base.embedding, "both", silent), None
    else:
        embedding = filled(base.embedding, "input", torch.zeros_like(silent))
        head = filled(base.embedding if base.head is None else base.head, "head", silent)
    bias = None
    if base.bias is not None:
        bias = filled(base.bias[:, None], "head", torch.tensor([SUPPRESSED_BIAS]))[:, 0]
    return VocabularyMatrices(embedding, head, bias)


def atom_ids(plan: RowPlan, donor: VocabularyMatrices) -> Ids:
    """Anchors for which the donor has a row of usual length. Added tokens may lie beyond its embedding."""
    return sound_ids(donor, plan.anchors[plan.anchors < len(donor.embedding)])


def sound_ids(donor: VocabularyMatrices, ids: Ids) -> Ids:
    """Those of some of the donor's ids whose rows are about as long as the others', in each of its matrices."""
    for matrix in (donor.embedding, donor.head):
        if matrix is not None:
            ids = ids[sound_anchors(row_norms(matrix)[torch.from_numpy(ids)]).numpy()]
    return ids


def odd_anchors(plan: RowPlan, donor: VocabularyMatrices) -> Ids:
    """Anchors that `atom_ids` leaves out for the length of their rows."""
    return np.setdiff1d(plan.anchors[plan.anchors < len(donor.embedding)], atom_ids(plan, donor))


def drop_rowless(alignment: Alignment, donor: VocabularyMatrices) -> Alignment:
    """Mark reconstructed ids whose donor row is zero as padding: there is nothing to go by."""
    targets = alignment.plan.ids(Provenance.RECONSTRUCTED)
    empty = donor.embedding[torch.from_numpy(targets)].abs().amax(dim=1) == 0 if len(targets) else None
    if empty is None or not bool(empty.any()):
        return alignment
    return replace(alignment, plan=alignment.plan.changed(Provenance.PADDING, targets[empty.numpy()]))


def _known(
    source: torch.Tensor,
    plan: RowPlan,
    silent: torch.Tensor,
    blends: Mapping[int, Blend],
    use: Use,
) -> torch.Tensor:
    """One matrix without what is reconstructed: silence, rows of the base, and means of some."""
    copied = plan.copied
    rows = silent.to(source.dtype).repeat(plan.n_rows, 1)
    rows[torch.from_numpy(copied)] = source[torch.from_numpy(plan.source[copied])]
    for token_id, blend in blends.items():
        rows[token_id] = blended(source, blend, use)
    return rows


def blended(source: torch.Tensor, blend: Blend, use: Use) -> torch.Tensor:
    """(dim,) the mean row of a blend, in the matrix's dtype; a single row bit for bit."""
    ids = sorted({"input": blend.input, "head": blend.head, "both": blend.both}[use])
    return source[ids[0]] if len(ids) == 1 else source[ids].float().mean(0).to(source.dtype)
