"""The new vocabulary-sized tensors, from tensors and an alignment alone: no files, no tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokensurgeon.alignment import Alignment, Provenance
from tokensurgeon.errors import InputError
from tokensurgeon.omp import SparseCoefficients, solve_omp
from tokensurgeon.transfer import transfer

__all__ = ["NewRows", "VocabularyMatrices", "build_rows", "drop_rowless"]

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
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
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
        device: Where to solve.
        batch_size: Targets solved together.
        progress: Called with (tensor, rows done, rows in all).

    Raises:
        InputError: If k exceeds the anchors, or rows that are needed are not finite.
    """
    anchors = torch.from_numpy(alignment.anchors)
    targets = torch.from_numpy(alignment.ids(Provenance.RECONSTRUCTED))
    coefficients: dict[str, SparseCoefficients] = {}

    def solve(name: str, matrix: torch.Tensor) -> SparseCoefficients:
        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(name, done, total)

        coefficients[name] = solve_omp(
            matrix[targets], matrix[anchors], k, device=device, batch_size=batch_size, progress=tell
        )
        return coefficients[name]

    shared = solve("embedding", donor.embedding)
    separate = base.head is not None or untie
    silent = torch.zeros(base.embedding.shape[1]) if suppressing is None else suppressing
    pick = {True: (-1, -1), False: (0, -1)}[separate]  # which pieces of an override count
    embedding = _assemble(base.embedding, shared, alignment, torch.zeros_like(silent) if separate else silent, pick)
    if not separate:
        bias = _assemble_bias(base.bias, shared, alignment)
        return NewRows(VocabularyMatrices(embedding, None, bias), coefficients)
    own = shared if donor.head is None else solve("head", donor.head)
    source = base.embedding if base.head is None else base.head
    head = _assemble(source, own, alignment, silent, (0, 0))
    return NewRows(VocabularyMatrices(embedding, head, _assemble_bias(base.bias, own, alignment)), coefficients)


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
    silent: torch.Tensor,
    pieces: tuple[int, int],
) -> torch.Tensor:
    anchors = torch.from_numpy(alignment.anchors)
    ids = torch.from_numpy(alignment.source[alignment.anchors])
    known = source[ids]
    bad = torch.nonzero(~torch.isfinite(known).all(dim=1)).flatten()
    if len(bad):
        raise InputError(
            f"{len(bad)} rows of the base's embedding that the output needs hold NaN or infinity "
            f"(first: base id {int(ids[bad[0]])}). The checkpoint is damaged; use another"
        )
    rows = silent.to(source.dtype).repeat(alignment.n_rows, 1)
    rows[anchors] = known
    rows[torch.from_numpy(alignment.ids(Provenance.RECONSTRUCTED))] = transfer(coefficients, known).to(source.dtype)
    for token_id, text_ids in alignment.overrides.items():
        chosen = source[[text_ids[pieces[0]], text_ids[pieces[1]]]]
        rows[token_id] = chosen[0] if torch.equal(chosen[0], chosen[1]) else chosen.float().mean(0).to(source.dtype)
    return rows


def _assemble_bias(
    bias: torch.Tensor | None, coefficients: SparseCoefficients, alignment: Alignment
) -> torch.Tensor | None:
    if bias is None:
        return None
    silent = torch.tensor([_SUPPRESSED_BIAS])
    return _assemble(bias[:, None], coefficients, alignment, silent, (0, 0))[:, 0]
