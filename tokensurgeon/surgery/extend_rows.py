"""Rows for tokens that a model gets in addition to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Alignment, Ids, Provenance, align
from tokensurgeon.baselines import make_method
from tokensurgeon.baselines.subtoken import Subtoken
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.progress import Progress
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.transfer.protocol import Method, Resources
from tokensurgeon.transfer.rows import SUPPRESSED_BIAS, VocabularyMatrices, build_rows
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["grown_matrices", "rows_by_donor", "rows_by_text"]


def rows_by_text(
    base: OpenModel, old: VocabularyMatrices, right: OpenModel, new: Ids, method: Method, seed: int
) -> VocabularyMatrices:
    """Rows that need no other model.

    Args:
        base: The model.
        old: Its rows.
        right: Its tokenizer with the new tokens.
        new: (n,) their ids.
        method: One that does not go by a donor.
        seed: For methods that draw.
    """
    pieces = base_pieces(base.vocabulary, right.vocabulary, new.tolist(), base.layout.rows)
    nothing = VocabularyMatrices(torch.zeros(len(new), 1))
    cut = pieces if isinstance(method, Subtoken) else None
    return _built(old, nothing, np.zeros(0, dtype=np.int64), len(new), method, cut, Resources(seed=seed), None)


def rows_by_donor(
    base: OpenModel,
    old: VocabularyMatrices,
    right: OpenModel,
    new: Ids,
    donor: str,
    options: TransplantOptions,
    progress: Progress | None,
) -> tuple[VocabularyMatrices, int, dict[str, Any]]:
    """Rows by a method that compares tokens in a donor's embedding; tokens that it lacks are made of their pieces.

    Args:
        base: The model.
        old: Its rows.
        right: Its tokenizer with the new tokens.
        new: (n,) their ids.
        donor: Directory, ``.gguf`` file or hub id.
        options: The method and its surroundings.
        progress: Called with (stage, done, total).

    Returns:
        The rows, how many of them are the donor's doing, and what the manifest says of it.

    Raises:
        InputError: If the donor has none of the new tokens, or shares too few with the model.
    """
    other = OpenModel.open(donor, "vocabulary")
    source = align(other.vocabulary, right.vocabulary, base_rows=other.layout.rows).source
    anchors, known = np.flatnonzero(source[: new[0]] >= 0), source[new] >= 0
    if not known.any():
        raise InputError(f"{donor} has none of the {len(new)} new tokens. Leave out --donor")
    method = options.reconstruction()
    if getattr(method, "k", 1) > len(anchors):
        raise InputError(f"k={options.k} exceeds the {len(anchors)} tokens that both models have. Choose a smaller --k")
    theirs, ids = other.matrices(), torch.from_numpy(source[np.concatenate([anchors, new[known]])])
    picked = VocabularyMatrices(theirs.embedding[ids], None if theirs.head is None else theirs.head[ids])
    device = pick_device(options.device)
    resources = Resources(device, options.exact, options.memory_bytes, options.seed)
    made = _built(old, picked, anchors, int(known.sum()), method, None, resources, progress)
    described = other.described()
    if not known.all():
        rest = rows_by_text(base, old, right, new[~known], make_method("subtoken"), options.seed)
        made = _merged(made, rest, torch.from_numpy(known))
    return made, int(known.sum()), described


def grown_matrices(
    old: VocabularyMatrices, fresh: VocabularyMatrices, plan: Alignment, quiet: torch.Tensor | None
) -> VocabularyMatrices:
    """Old rows, new ones, and for what is padding ``quiet`` (a biased head is silenced by its bias)."""
    ids = torch.from_numpy(plan.ids(Provenance.RECONSTRUCTED))
    padding = torch.from_numpy(plan.ids(Provenance.PADDING))

    def grown(before: torch.Tensor, new: torch.Tensor, silent: torch.Tensor | None) -> torch.Tensor:
        rows = before.new_zeros(plan.n_rows, *before.shape[1:])
        rows[: len(before)] = before
        rows[ids] = new
        if silent is not None:
            rows[padding] = silent.to(rows.dtype)
        return rows

    head, bias = None, None
    if old.head is not None and fresh.head is not None:
        head = grown(old.head, fresh.head, quiet)
    if old.bias is not None and fresh.bias is not None:
        bias = grown(old.bias, fresh.bias, torch.tensor(SUPPRESSED_BIAS))
    return VocabularyMatrices(grown(old.embedding, fresh.embedding, quiet if head is None else None), head, bias)


def _built(
    old: VocabularyMatrices,
    donor: VocabularyMatrices,
    anchors: Ids,
    n: int,
    method: Method,
    pieces: Sequence[Sequence[int]] | None,
    resources: Resources,
    progress: Progress | None,
) -> VocabularyMatrices:
    """``n`` rows; the donor's tensors hold its rows for the anchors, and then for the new tokens."""
    provenance = np.full(len(anchors) + n, Provenance.RECONSTRUCTED, dtype=np.int8)
    provenance[: len(anchors)] = Provenance.COPIED
    plan = Alignment(provenance, np.concatenate([anchors, np.full(n, -1, dtype=np.int64)]), {}, ())
    made = build_rows(
        old, donor, plan, method=method, pieces=pieces, resources=resources, progress=progress
    ).matrices  # fmt: skip
    rest = [None if m is None else m[len(anchors) :] for m in (made.embedding, made.head, made.bias)]
    return VocabularyMatrices(*rest)  # type: ignore[arg-type]


def _merged(known: VocabularyMatrices, others: VocabularyMatrices, which: torch.Tensor) -> VocabularyMatrices:
    """Rows of ``known`` where ``which`` is true, of ``others`` elsewhere, each in their order."""

    def merged(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
        if a is None or b is None:
            return None
        rows = a.new_zeros(len(which), *a.shape[1:])
        rows[which], rows[~which] = a, b
        return rows

    pairs = ((known.embedding, others.embedding), (known.head, others.head), (known.bias, others.bias))
    return VocabularyMatrices(*(merged(a, b) for a, b in pairs))  # type: ignore[arg-type]
