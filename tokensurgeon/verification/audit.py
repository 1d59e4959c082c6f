"""Make new rows once more, from base and donor, and compare them with those that were written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance
from tokensurgeon.baselines import Method
from tokensurgeon.baselines.linear import Procrustes, Ridge
from tokensurgeon.evaluation.states import quiet_row
from tokensurgeon.transfer.learnt import LearntRows
from tokensurgeon.transfer.omp import Omp
from tokensurgeon.transfer.protocol import DonorSpace, Pieces, Resources, Use
from tokensurgeon.transfer.rows import atom_ids
from tokensurgeon.transfer.states import with_bias
from tokensurgeon.transfer.statistics import piece_rows
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.limits import limit_checks
from tokensurgeon.verification.reference import ReferenceOmp
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.shifts import Shifts
from tokensurgeon.verification.trained import made_rows, trained_rows
from tokensurgeon.vocabulary.segmentation import base_pieces

__all__ = ["audit_checks"]

_CLOSE, _NEAR = 5e-4, 0.02
"""Of a row's norm, besides rounding to the output's dtype: for our own methods, and for scikit-learn beside float32."""
_SAMPLE, _FEWEST = 64, 8
_SECONDS = 2e12
"""Multiplications that our own methods do in some ten seconds: below that, all rows are made again."""
_REFERENCE = 5e10
"""Those that scikit-learn does in half a minute."""
_BY_REFERENCE = 0.75
"""Least share of rows that scikit-learn finds too; the others are near ties."""
_NAME = "rows made again"
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class _Written:
    """A matrix as it is, and the base's that its rows are made of; a bias is one more column of the head."""

    new: torch.Tensor
    old: torch.Tensor
    use: Use
    shifted: bool
    biased: bool = False

    def columns(self) -> list[slice]:
        """Of the rows, and of the bias beside them."""
        width = self.new.shape[1] - self.biased
        return [slice(0, width), *([slice(width, width + 1)] if self.biased else [])]

    def floor(self, part: slice) -> float:
        """What a single number, which may be near zero, is measured by besides itself."""
        return float(self.old[:, part].float().square().mean().sqrt()) if self.biased and part.start else 0.0


def audit_checks(evidence: Evidence, seed: int, run: bool) -> Iterator[Check]:
    """Reconstructed rows are what the manifest's method makes of the donor's; silent ones what the head gives.

    Where all rows would take long, a sample is made again. Those of OMP are solved by scikit-learn too.

    Args:
        evidence: The models.
        seed: Of the sample; whoever changed the output must not know it.
        run: Whether the base may be run, which shows how rows were calibrated.

    Raises:
        InputError: If the manifest names a method that there is not, or that cannot solve this.
    """
    yield from _estimated_silence(evidence)
    plan, trained = evidence.manifest.plan, trained_rows(evidence.manifest)
    targets = np.setdiff1d(plan.ids(Provenance.RECONSTRUCTED), trained)
    unlike = np.union1d(targets, trained)
    if evidence.kind == "extend":
        special = np.intersect1d(targets, sorted(evidence.out.vocabulary.added))
        if len(special):
            yield Check("special rows", True, f"{len(special)} rows of special tokens are not made again", note=True)
        targets = np.setdiff1d(targets, special)
    replaced = np.intersect1d(targets, evidence.content.get("outliers", {}).get("ids", []))
    if len(replaced):
        yield _replaced_rows(evidence, replaced)
        targets, unlike = np.setdiff1d(targets, replaced), np.setdiff1d(unlike, replaced)
    if not len(targets):
        yield from limit_checks(evidence, unlike)
        return
    if why := _why_not(evidence):
        yield from limit_checks(evidence, unlike)
        yield Check(_NAME, True, f"not checked: {why}", note=True)
        return
    method = evidence.method
    work, combined = _work(evidence, method), np.intersect1d(targets, _combined(evidence, method))
    sample, chosen = np.random.default_rng(seed).permutation(combined), targets
    if work * len(combined) > _SECONDS:  # the others' rows take no longer than ridge's
        chosen = np.union1d(np.setdiff1d(targets, combined), sample[:_SAMPLE])
    shifts = Shifts.of(evidence, run)
    proven = chosen if shifts is None or not shifts.unproven else chosen[:0]
    yield from limit_checks(evidence, np.setdiff1d(unlike, proven))
    agree = _agreeing(evidence, method, chosen, _CLOSE, shifts)
    n, wrong = len(targets), chosen[~agree]
    some = f"all {n} new rows" if len(chosen) == n else f"{len(chosen)} of {n} new rows (seed {seed})"
    what = f"what method {method.name} makes of {_sources(method)}, up to rounding"
    unproven = "" if shifts is None else shifts.unproven
    if shifts is not None:
        what += f", but for shifts along one direction: {unproven}" if unproven else " and calibrated"
    detail = f"{some}: {len(wrong)} are not {what}" if len(wrong) else f"{some} are {what}"
    yield Check(_NAME, not len(wrong), detail, note=bool(unproven) and not len(wrong))
    if isinstance(method, Omp) and len(combined):
        few = np.sort(sample[: int(min(max(_FEWEST, _REFERENCE / work), _SAMPLE))])
        share = _agreeing(evidence, ReferenceOmp(method.k, method.rest), few, _NEAR, shifts).mean()
        detail = f"{share:.0%} of {len(few)} new rows (seed {seed}) are what orthogonal_mp finds, the others near ties"
        yield Check("rows by scikit-learn", bool(share >= _BY_REFERENCE), detail)


def _replaced_rows(evidence: Evidence, ids: Ids) -> Check:
    """Rows that were unlike the base's are the mean of their pieces' in each matrix, or the mean row without any."""
    base = evidence.base
    cut = Pieces.of(base_pieces(base.vocabulary, evidence.out.vocabulary, ids.tolist(), base.layout.rows))
    far = torch.zeros(len(ids), dtype=torch.bool)
    for written in _matrices(evidence):
        wanted, rows = piece_rows(written.old, cut), written.new[torch.from_numpy(ids)].float()
        allowed = _CLOSE + 2 * torch.finfo(written.new.dtype).eps
        far |= torch.linalg.vector_norm(rows - wanted, dim=1) > allowed * torch.linalg.vector_norm(wanted, dim=1) + 1e-6
    wrong = f"{int(far.sum())} of {len(ids)} are not" if far.any() else f"{len(ids)} are"
    return Check("replaced rows", not far.any(), f"{wrong} the mean of the base's rows of their pieces")


def _sources(method: Method) -> str:
    return {"donor": "the donor's", "text": "the base's pieces"}.get(method.needs, "nothing")


def _combined(evidence: Evidence, method: Method) -> Ids:
    """New tokens whose rows OMP made of anchors, trained since or not; all of them by any other method."""
    new = made_rows(evidence.manifest)
    return new[: method.combined(len(new))] if isinstance(method, Omp) else new


def _work(evidence: Evidence, method: Method) -> float:
    """Multiplications that one row takes; 0 where all take seconds."""
    donor = evidence.donor_matrices
    if donor is None or method.needs != "donor" or isinstance(method, Ridge | Procrustes):
        return 0.0
    picks = method.k if isinstance(method, Omp) else 1
    return float(picks * donor.embedding.shape[1] * len(atom_ids(evidence.manifest.plan, donor)))


def _why_not(evidence: Evidence) -> str | None:
    """The reason for which nothing can be made again; None if it can."""
    if evidence.kind == "extend" and evidence.content["options"].get("donor") is not None:
        return "they are of a donor of some tokens; their digests are all there is"
    needs = evidence.method.needs
    if needs == "fasttext":
        return "they go by vectors of a text that is not kept; their digests are all there is"
    if evidence.method.name == "normal":
        return "they are drawn at random; their digests are all there is"
    if needs == "donor" and evidence.donor_matrices is None:
        return "that takes the donor's weights. Give --donor"
    return None


def _agreeing(evidence: Evidence, method: Method, ids: Ids, tolerance: float, shifts: Shifts | None) -> Flags:
    """Which of some reconstructed rows are, in every matrix, what a method makes of them."""
    learnt, agree = _learnt(evidence, method, ids), np.ones(len(ids), dtype=bool)
    for written in _matrices(evidence):
        columns = written.columns()
        allowed = tolerance + 2 * torch.finfo(written.new.dtype).eps
        start = 0
        for blocks in zip(*(learnt.blocks(written.old[:, part], written.use) for part in columns), strict=True):
            wanted = torch.cat(blocks, dim=1)
            part = slice(start, start + len(wanted))
            rows = written.new[torch.from_numpy(ids[part])].float()
            left, spare = rows - wanted, torch.zeros(len(rows))
            if written.shifted and shifts is not None:
                left, spare = shifts.taken_off(rows, wanted, written.old, ids[part], allowed, written.new.dtype)
            for own in columns:
                scale = torch.maximum(*(torch.linalg.vector_norm(side[:, own], dim=1) for side in (rows, wanted)))
                good = (
                    torch.linalg.vector_norm(left[:, own], dim=1)
                    <= allowed * (scale + written.floor(own)) + spare + 1e-6
                )
                agree[part] &= good.numpy()
            start = part.stop
    return agree


def _learnt(evidence: Evidence, method: Method, ids: Ids) -> LearntRows:
    """What a method learns for some tokens, from all anchors; as `tokensurgeon.transfer.rows.build_rows` does."""
    plan, base, donor = evidence.manifest.plan, evidence.base, evidence.donor_matrices
    pieces = None
    corrected = isinstance(method, Ridge) and method.pieces == "shared"
    corrected |= isinstance(method, Omp | ReferenceOmp) and method.rest == "mapped"
    if method.needs == "text" or corrected:
        pieces = Pieces.of(base_pieces(base.vocabulary, evidence.out.vocabulary, ids.tolist(), base.layout.rows))
    if method.needs != "donor" or donor is None:
        nothing, space = torch.zeros(0, dtype=torch.int64), DonorSpace.without_donor(len(ids), pieces)
        return LearntRows.of(method, nothing, space, None, Resources())
    atoms, targets = torch.from_numpy(atom_ids(plan, donor)), torch.from_numpy(ids)
    if isinstance(method, Omp):
        method = method.of_some(ids, made_rows(evidence.manifest))
    own = donor.head if evidence.out.layout.head is not None else None
    return LearntRows.of(
        method,
        torch.from_numpy(plan.source)[atoms],
        DonorSpace(donor.embedding[targets], donor.embedding[atoms], pieces),
        None if own is None else DonorSpace(own[targets], own[atoms], pieces),
        Resources(),
    )


def _biased(evidence: Evidence) -> bool:
    return evidence.out.layout.bias is not None and evidence.base.layout.bias is not None


def _matrices(evidence: Evidence) -> Iterator[_Written]:
    new, old = evidence.out.matrices(), evidence.base.matrices()
    if new.head is None and not _biased(evidence):
        yield _Written(new.embedding, old.embedding, "both", True)
        return
    use: Use = "both" if new.head is None else "input"
    yield _Written(new.embedding, old.embedding, use, new.head is None)
    head, known = new.head, old.embedding if old.head is None else old.head
    if head is not None:
        biased = _biased(evidence)
        both = [with_bias(m, of.bias if biased else None) for m, of in ((head, new), (known, old))]
        yield _Written(both[0], both[1], "head", True, biased)


def _estimated_silence(evidence: Evidence) -> Iterator[Check]:
    """Where the base was not run, the row that takes no probability follows from its head."""
    silent = np.setdiff1d(evidence.manifest.plan.silenced, trained_rows(evidence.manifest))
    if evidence.content.get("not_run") is None or evidence.base.layout.bias is not None or not len(silent):
        return
    new, old = evidence.out.matrices(), evidence.base.matrices()
    wanted = quiet_row(evidence.base, old, len(silent), None)
    found = (new.embedding if new.head is None else new.head)[int(silent[0])].float()
    allowed = (_NEAR + torch.finfo(new.embedding.dtype).eps) * torch.linalg.vector_norm(wanted)
    good = bool(torch.linalg.vector_norm(found - wanted) <= allowed)
    yield Check("silent row", good, "as estimated from the base's head" if good else "not the one of the base's head")
