"""Hold the rows of an output's vocabulary-sized tensors against its plan and its base's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from tokensurgeon.alignment import Blend, Ids, Provenance
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.solver.problem import damaged_rows
from tokensurgeon.transfer.protocol import Use
from tokensurgeon.transfer.rows import blended
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.trained import trained_rows

__all__ = ["Matrix", "differing", "row_checks"]

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Matrix:
    """A vocabulary-sized tensor and where its rows come from.

    Attributes:
        name: In the output.
        new: (rows, dim) as stored; a bias has one column.
        old: (base rows, dim) the base's.
        use: What it is for.
        donor: (donor rows, dim) where restored rows come from; None where nothing is known of them.
        quiet: What a row that takes no probability holds everywhere; None where it may be any row, the same for all.
        dtype: What it must be stored as.
    """

    name: str
    new: torch.Tensor
    old: torch.Tensor
    use: Use
    donor: torch.Tensor | None
    quiet: float | None
    dtype: torch.dtype


def row_checks(matrix: Matrix, manifest: Manifest) -> Iterator[Check]:
    """Finite rows; copied ones bit for bit; means are means; silent rows are one; restored rows are the donor's."""
    name, new, old, plan = matrix.name, matrix.new, matrix.old, manifest.plan
    bad = damaged_rows(new)
    yield Check(f"{name} finite", not len(bad), f"row {int(bad[0])} is not" if len(bad) else f"{len(new)} rows")
    if matrix.dtype != new.dtype:
        yield Check(f"{name} anchors", False, f"stored as {new.dtype}, expected {matrix.dtype}")
        return
    if (top := int(plan.source.max(initial=-1))) >= len(old):
        yield Check(f"{name} anchors", False, f"the base has {len(old)} rows, and one is of its id {top}")
        return
    trained = trained_rows(manifest)
    anchors = np.setdiff1d(plan.copied, trained)
    differ = differing(new, old, anchors, plan.source[anchors])
    yield Check(
        f"{name} anchors",
        not len(differ),
        f"{len(differ)} rows differ from the base's (first: id {differ[0]})"
        if len(differ)
        else f"{len(anchors)} rows bit-identical to the base's",
    )
    blends = {
        int(i): Blend(*map(tuple, ids))
        for i, ids in manifest.content.get("blends", {}).items()
        if int(i) not in trained
    }
    if blends:
        wrong = _not_means(matrix, blends)
        detail = f"id {wrong[0]} is not" if wrong else f"{len(blends)} rows are means of the base's"
        yield Check(f"{name} blends", not wrong, detail)
    silent = np.setdiff1d(plan.silenced, trained)
    if len(silent):
        other = _not_silent(matrix, silent)
        detail = (
            f"{len(other)} are not (first: id {other[0]})" if len(other) else f"{len(silent)} rows are the same one"
        )
        yield Check(f"{name} silent rows", not len(other), detail)
    restored = np.setdiff1d(plan.ids(Provenance.RESTORED), trained)
    if len(restored) and matrix.donor is not None:
        ids = restored[restored < len(matrix.donor)]
        differ = differing(new, matrix.donor, ids, ids)
        good = not len(differ) and len(ids) == len(restored)
        yield Check(
            f"{name} restored rows", good, f"{len(ids) - len(differ)} of {len(restored)} bit-identical to the donor's"
        )


def differing(new: torch.Tensor, old: torch.Tensor, ids: Ids, sources: Ids) -> Ids:
    """Those ``ids`` whose rows in ``new`` are not, bit by bit, the ``sources`` of ``old``, cast to the same dtype."""
    equal = np.ones(len(ids), dtype=bool)
    for start in range(0, len(ids), _BLOCK):
        part = slice(start, start + _BLOCK)
        got, wanted = new[torch.from_numpy(ids[part])], old[torch.from_numpy(sources[part])].to(new.dtype)
        equal[part] = (got.view(torch.uint8) == wanted.view(torch.uint8)).all(dim=1).numpy()
    return ids[~equal]


def _not_means(matrix: Matrix, blends: Mapping[int, Blend]) -> list[int]:
    rows, known = len(matrix.new), range(len(matrix.old))
    return [
        i
        for i, blend in blends.items()
        if i >= rows
        or not {*blend.ids, *blend.tied} <= {*known}
        or not torch.equal(matrix.new[i], blended(matrix.old, blend, matrix.use).to(matrix.dtype))
    ]


def _not_silent(matrix: Matrix, silent: Ids) -> Ids:
    first = matrix.new[int(silent[0])]
    wanted = first if matrix.quiet is None else torch.full_like(first, matrix.quiet)
    same = (matrix.new[torch.from_numpy(silent)] == wanted).all(dim=1).numpy()
    other: Ids = silent[~same]
    return other
