"""The new vocabulary-sized tensors, from tensors and an alignment alone: no files, no tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from tokensurgeon.alignment import Alignment, Ids, Provenance
from tokensurgeon.errors import InputError
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.solver.omp import SparseCoefficients
from tokensurgeon.solver.problem import damaged_rows
from tokensurgeon.transfer.combine import Weights
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import Auxiliary, BaseRows, DonorSpace, Fitted, Method, Pieces, Resources, Use

__all__ = ["SUPPRESSED_BIAS", "NewRows", "VocabularyMatrices", "atom_ids", "build_rows", "drop_rowless"]

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
        matrices: As the base's, with ``alignment.n_rows`` rows and the base's dtypes.
        coefficients: What the reconstructed rows are made of, by tensor (``embedding``, ``head``);
            atoms are positions in ``atoms``. Empty for methods that do not combine tokens of the base.
        atoms: (n_atoms,) int64 base ids.
    """

    matrices: VocabularyMatrices
    coefficients: dict[str, SparseCoefficients]
    atoms: torch.Tensor


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
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> NewRows:
    """Copy the anchors, reconstruct the new tokens, silence the rest.

    A tied base gets one matrix, from the donor's input embedding. An untied one gets both: the head
    from the donor's own head, or from what was learnt for the input where the donor is tied.

    Args:
        base: Tensors of the model that keeps its body.
        donor: Tensors of the model that gives the tokenizer; its dim may differ.
        alignment: Provenance of every output row.
        method: How tokens are reconstructed; by default OMP with k=64.
        pieces: Base ids of every reconstructed token's text, for methods that go by text.
        auxiliary: Vectors by which a method shall compare tokens instead of the donor's.
        untie: Give a tied base a head of its own.
        suppressing: (dim,) row for unreachable and padding ids; zeros if not given.
        resources: Device, memory, exactness and seed of the reconstruction.
        progress: Called with (stage, rows done, rows in all).

    Raises:
        InputError: If the method cannot solve the problem, or rows that are needed are not finite.
    """
    method, resources = method or Omp(), resources or Resources()
    atoms = torch.from_numpy(atom_ids(alignment, donor))
    known = torch.from_numpy(alignment.source)[atoms]
    targets = torch.from_numpy(alignment.ids(Provenance.RECONSTRUCTED))
    cut = Pieces.of(pieces) if pieces is not None else None
    coefficients: dict[str, SparseCoefficients] = {}

    def fit(name: str, matrix: torch.Tensor, stage: Stage) -> Fitted:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(stage, done, total)

        fitted = method.fit(
            DonorSpace(matrix[targets], matrix[atoms], cut, auxiliary), replace(resources, progress=tell)
        )
        if isinstance(fitted, Weights):
            coefficients[name] = fitted.coefficients
        return fitted

    shared = fit("embedding", donor.embedding, Stage.EMBEDDING)
    separate = base.head is not None or untie
    own = fit("head", donor.head, Stage.HEAD) if separate and auxiliary is None and donor.head is not None else shared
    silent = torch.zeros(base.embedding.shape[1]) if suppressing is None else suppressing

    def assemble(source: torch.Tensor, use: Use, quiet: torch.Tensor, *override: int) -> torch.Tensor:
        rows = _known(source, alignment, quiet, override)
        side = BaseRows(source, source[known], use)
        _fill(rows, targets, (own if use == "head" else shared).blocks(side))
        if use == "head" and own is not shared and donor.head is not None:  # a head row of zeros says nothing
            empty = donor.head[targets].abs().amax(dim=1) == 0
            if bool(empty.any()):
                _fill(rows, targets, shared.blocks(side), empty)
        return rows

    if not separate:
        embedding, head = assemble(base.embedding, "both", silent, 0, -1), None
    else:
        embedding = assemble(base.embedding, "input", torch.zeros_like(silent), -1)
        head = assemble(base.embedding if base.head is None else base.head, "head", silent, 0)
    bias = None
    if base.bias is not None:
        bias = assemble(base.bias[:, None], "head", torch.tensor([SUPPRESSED_BIAS]), 0)[:, 0]
    return NewRows(
        VocabularyMatrices(embedding, head, bias), coefficients, known if auxiliary is None else auxiliary.ids
    )


def atom_ids(alignment: Alignment, donor: VocabularyMatrices) -> Ids:
    """Anchors for which the donor has a row. Added tokens may lie beyond its embedding."""
    return alignment.anchors[alignment.anchors < len(donor.embedding)]


def drop_rowless(alignment: Alignment, donor: VocabularyMatrices) -> Alignment:
    """Mark reconstructed ids whose donor row is zero as padding: there is nothing to go by."""
    targets = alignment.ids(Provenance.RECONSTRUCTED)
    empty = donor.embedding[torch.from_numpy(targets)].abs().amax(dim=1) == 0 if len(targets) else None
    if empty is None or not bool(empty.any()):
        return alignment
    provenance = alignment.provenance.copy()
    provenance[targets[empty.numpy()]] = Provenance.PADDING
    return Alignment(provenance, alignment.source, alignment.overrides, alignment.unmapped)


def _fill(
    rows: torch.Tensor, targets: torch.Tensor, blocks: Iterable[torch.Tensor], wanted: torch.Tensor | None = None
) -> None:
    """Put new rows in their places, all or the ``wanted`` ones."""
    start = 0
    for block in blocks:
        part = slice(start, start + len(block))
        chosen = slice(None) if wanted is None else wanted[part]
        rows[targets[part][chosen]] = block[chosen].to(rows.dtype)
        start = part.stop


def _known(source: torch.Tensor, alignment: Alignment, silent: torch.Tensor, pieces: tuple[int, ...]) -> torch.Tensor:
    """One matrix without what is reconstructed: silence, anchors, and overrides (mean of the pieces)."""
    ids = torch.from_numpy(alignment.source[alignment.anchors])
    known = source[ids]
    bad = damaged_rows(known)
    if len(bad):
        raise InputError(
            f"{len(bad)} rows of the base's embedding that the output needs hold NaN or infinity "
            f"(first: base id {int(ids[bad[0]])}). The checkpoint is damaged; use another"
        )
    rows = silent.to(source.dtype).repeat(alignment.n_rows, 1)
    rows[torch.from_numpy(alignment.anchors)] = known
    for token_id, text_ids in alignment.overrides.items():
        chosen = source[sorted({text_ids[piece] for piece in pieces})]
        rows[token_id] = chosen[0] if len(chosen) == 1 else chosen.float().mean(0).to(source.dtype)
    return rows
