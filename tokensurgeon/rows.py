"""The new vocabulary-sized tensors, from tensors and an alignment alone: no files, no tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokensurgeon.alignment import Alignment, Ids, Provenance
from tokensurgeon.errors import InputError
from tokensurgeon.omp import SparseCoefficients
from tokensurgeon.sharding import solve_in_shares
from tokensurgeon.transfer import transfer

__all__ = ["NewRows", "VocabularyMatrices", "atom_ids", "build_rows", "drop_rowless"]

Progress = Callable[[str, int, int], None]
_SUPPRESSED_BIAS = -1e4


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
            atoms are positions in ``alignment.anchors``.
    """

    matrices: VocabularyMatrices
    coefficients: dict[str, SparseCoefficients]


def build_rows(
    base: VocabularyMatrices,
    donor: VocabularyMatrices,
    alignment: Alignment,
    *,
    k: int = 64,
    untie: bool = False,
    suppressing: torch.Tensor | None = None,
    exact: bool = False,
    memory: int | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> NewRows:
    """Copy the anchors, reconstruct the new tokens, silence the rest.

    A tied base gets one matrix, from the donor's input embedding. An untied one gets both: the head
    from the donor's own head, or with the input's coefficients where the donor is tied.

    Args:
        base: Tensors of the model that keeps its body.
        donor: Tensors of the model that gives the tokenizer; its dim may differ.
        alignment: Provenance of every output row.
        k: Anchors per reconstructed row.
        untie: Give a tied base a head of its own.
        suppressing: (dim,) row for unreachable and padding ids; zeros if not given.
        exact: Prove every pick, see `solve_omp`.
        memory: Bytes of work space, see `solve_omp`.
        device: Where to solve.
        progress: Called with (tensor, rows done, rows in all).

    Raises:
        InputError: If k exceeds the anchors, or rows that are needed are not finite.
    """
    atoms = torch.from_numpy(atom_ids(alignment, donor))
    targets = torch.from_numpy(alignment.ids(Provenance.RECONSTRUCTED))
    coefficients: dict[str, SparseCoefficients] = {}

    def solve(name: str, matrix: torch.Tensor) -> SparseCoefficients:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(name, done, total)

        coefficients[name] = solve_in_shares(
            matrix[targets], matrix[atoms], k, exact=exact, memory=memory, device=device, progress=tell
        )
        return coefficients[name]

    shared = solve("embedding", donor.embedding)
    separate = base.head is not None or untie
    silent = torch.zeros(base.embedding.shape[1]) if suppressing is None else suppressing

    def assemble(source: torch.Tensor, weights: SparseCoefficients, quiet: torch.Tensor, *pieces: int) -> torch.Tensor:
        return _assemble(source, weights, alignment, source[torch.from_numpy(alignment.source)[atoms]], quiet, pieces)

    if not separate:
        own, embedding, head = shared, assemble(base.embedding, shared, silent, 0, -1), None
    else:
        own = shared if donor.head is None else _without_empty(solve("head", donor.head), shared, donor.head[targets])
        embedding = assemble(base.embedding, shared, torch.zeros_like(silent), -1)
        head = assemble(base.embedding if base.head is None else base.head, own, silent, 0)
    bias = None
    if base.bias is not None:
        bias = assemble(base.bias[:, None], own, torch.tensor([_SUPPRESSED_BIAS]), 0)[:, 0]
    return NewRows(VocabularyMatrices(embedding, head, bias), coefficients)


def atom_ids(alignment: Alignment, donor: VocabularyMatrices) -> Ids:
    """Anchors for which the donor has a row. Added tokens may lie beyond its embedding."""
    return alignment.anchors[alignment.anchors < len(donor.embedding)]


def _without_empty(own: SparseCoefficients, shared: SparseCoefficients, rows: torch.Tensor) -> SparseCoefficients:
    """The head's coefficients, but the input's where the donor's head row is zero and says nothing."""
    empty = rows.abs().amax(dim=1) == 0
    return SparseCoefficients(
        torch.where(empty[:, None], shared.indices, own.indices),
        torch.where(empty[:, None], shared.values, own.values),
        torch.where(empty, shared.n_active, own.n_active),
        own.residual,
    )


def drop_rowless(alignment: Alignment, donor: VocabularyMatrices) -> Alignment:
    """Mark reconstructed ids whose donor row is zero as padding: there is nothing to go by."""
    targets = alignment.ids(Provenance.RECONSTRUCTED)
    empty = donor.embedding[torch.from_numpy(targets)].abs().amax(dim=1) == 0 if len(targets) else None
    if empty is None or not bool(empty.any()):
        return alignment
    provenance = alignment.provenance.copy()
    provenance[targets[empty.numpy()]] = Provenance.PADDING
    return Alignment(provenance, alignment.source, alignment.overrides, alignment.unmapped)


def _assemble(
    source: torch.Tensor,
    coefficients: SparseCoefficients,
    alignment: Alignment,
    base_atoms: torch.Tensor,
    silent: torch.Tensor,
    pieces: tuple[int, ...],
) -> torch.Tensor:
    """One matrix: silence everywhere, then anchors, combinations and overrides (mean of the pieces)."""
    ids = torch.from_numpy(alignment.source[alignment.anchors])
    known = source[ids]
    bad = torch.nonzero(~torch.isfinite(known).all(dim=1)).flatten()
    if len(bad):
        raise InputError(
            f"{len(bad)} rows of the base's embedding that the output needs hold NaN or infinity "
            f"(first: base id {int(ids[bad[0]])}). The checkpoint is damaged; use another"
        )
    rows = silent.to(source.dtype).repeat(alignment.n_rows, 1)
    rows[torch.from_numpy(alignment.anchors)] = known
    new = transfer(coefficients, base_atoms).to(source.dtype)
    rows[torch.from_numpy(alignment.ids(Provenance.RECONSTRUCTED))] = new
    for token_id, text_ids in alignment.overrides.items():
        chosen = source[sorted({text_ids[piece] for piece in pieces})]
        rows[token_id] = chosen[0] if len(chosen) == 1 else chosen.float().mean(0).to(source.dtype)
    return rows
