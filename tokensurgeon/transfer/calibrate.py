"""Give reconstructed rows of the head the prior that their donor rows suggest."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from tokensurgeon.alignment import Provenance, RowPlan
from tokensurgeon.transfer.rows import VocabularyMatrices, atom_ids
from tokensurgeon.transfer.silence import calibrating_shifts, common_direction
from tokensurgeon.transfer.states import HeadStates, with_bias

__all__ = ["calibrate", "counted_prior"]

_CHUNK = 4096
_ENOUGH = 10
"""Occurrences from which a token's share of a text is believed."""


def calibrate(
    new: VocabularyMatrices,
    base: VocabularyMatrices,
    donor: VocabularyMatrices,
    plan: RowPlan,
    states: HeadStates,
    log_prior: torch.Tensor | None = None,
    kept: Collection[int] = (),
) -> None:
    """Shift the reconstructed rows of the head (of the one matrix, where it is tied) in place.

    Args:
        new: The output's tensors, to be changed.
        base: The base's tensors.
        donor: The donor's tensors.
        plan: Which rows were reconstructed, and which are anchors.
        states: What the base's head sees on text.
        log_prior: (n_rows,) as `counted_prior` gives it; by default what the anchors suggest.
        kept: Ids of reconstructed rows to leave as they are: those whose donor rows are not to be believed.
    """
    new_ids = np.setdiff1d(plan.ids(Provenance.RECONSTRUCTED), np.array(sorted(kept), dtype=np.int64))
    targets, atoms = torch.from_numpy(new_ids), torch.from_numpy(atom_ids(plan, donor))
    head = with_bias(new.embedding if new.head is None else new.head, new.bias)
    known = with_bias(base.embedding if base.head is None else base.head, base.bias)
    own = donor.embedding if donor.head is None or new.head is None else donor.head
    seen = states if base.bias is None else states.with_constant()
    sources = torch.from_numpy(plan.source)[atoms]
    shifts = calibrating_shifts(
        seen, known[sources], own[atoms], head[targets], own[targets],
        None if log_prior is None else log_prior[targets],
    )  # fmt: skip
    direction, dim = common_direction(seen.states), new.embedding.shape[1]
    rows = new.embedding if new.head is None else new.head
    for some, shift in zip(torch.split(targets, _CHUNK), torch.split(shifts, _CHUNK), strict=True):
        rows[some] = (rows[some].float() + shift[:, None] * direction[:dim]).to(rows.dtype)
    if new.bias is not None:
        new.bias[targets] += (shifts * direction[dim]).to(new.bias.dtype)


def counted_prior(counts: torch.Tensor, n_rows: int) -> torch.Tensor:
    """What a text says of how likely its tokens are.

    Args:
        counts: (n_ids,) int64, how often each of the donor's tokens occurs in it.
        n_rows: Rows of the output.

    Returns:
        (n_rows,) float32: the log of each token's share of the text, NaN for those seen fewer than ten times.
    """
    total = max(1, int(counts.sum()))
    counts = torch.nn.functional.pad(counts[:n_rows], (0, max(0, n_rows - len(counts))))
    shares = (counts / total).log().float()
    return torch.where(counts >= _ENOUGH, shares, torch.nan)
