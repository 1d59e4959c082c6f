"""Say what a model's rows are, whatever models they were copied through: own, trained, made of others, or silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokensurgeon.alignment import Ids, Provenance, RowPlan

__all__ = ["inherited", "nature"]

Provenances = np.ndarray[Any, np.dtype[np.int8]]

_NATURE = np.array(
    [
        {Provenance.OVERRIDE: Provenance.RECONSTRUCTED, Provenance.RECONSTRUCTED: Provenance.RECONSTRUCTED,
         Provenance.UNREACHABLE: Provenance.UNREACHABLE, Provenance.PADDING: Provenance.UNREACHABLE,
         Provenance.TRAINED: Provenance.TRAINED}.get(p, Provenance.COPIED)
        for p in Provenance
    ],
    dtype=np.int8,
)  # fmt: skip


def nature(content: Mapping[str, Any], plan: RowPlan) -> Provenances:
    """What every row of a model is.

    Args:
        content: Its manifest's.
        plan: Its manifest's.

    Returns:
        (n_rows,) int8. COPIED: a row that came with a model, a dead one of its own included. TRAINED. RECONSTRUCTED:
        made of other rows, as a mean too. UNREACHABLE: made so that it takes no probability.
    """
    found: Provenances = _NATURE[plan.provenance]
    if "merge" not in content:  # there, sources are numbers of models
        found[plan.copied] = Provenance.COPIED
        found[(plan.provenance == Provenance.ROLE) & (plan.source < 0)] = Provenance.RECONSTRUCTED
    for label, ids in content.get("inherited", {}).items():
        found[ids] = Provenance[label.upper()]
    return found


def inherited(plan: RowPlan, base: Provenances | None, donor: Provenances | None = None) -> dict[str, list[int]]:
    """What copied rows were in the models that they come from, where they were not these models' own.

    Args:
        plan: Of an output.
        base: (base rows,) what `nature` says of the base; None where nothing is known of it.
        donor: The same of the donor, where rows were restored from it.

    Returns:
        By label of a provenance: ids of the output.

    Example:
        >>> trained, own = Provenance.TRAINED, Provenance.COPIED
        >>> inherited(RowPlan.kept([2, 0]), np.array([own, own, trained], dtype=np.int8))
        {'trained': [0]}
    """
    found: Provenances = np.full(plan.n_rows, Provenance.COPIED, dtype=np.int8)
    restored = plan.ids(Provenance.RESTORED)
    for ids, sources, theirs in ((plan.copied, plan.source[plan.copied], base), (restored, restored, donor)):
        if theirs is not None:
            _fill(found, ids, sources, theirs)
    return {
        p.label: np.flatnonzero(found == p).tolist()
        for p in (Provenance.RECONSTRUCTED, Provenance.UNREACHABLE, Provenance.TRAINED)
        if (found == p).any()
    }


def _fill(found: Provenances, ids: Ids, sources: Ids, theirs: Provenances) -> None:
    there = sources < len(theirs)
    found[ids[there]] = theirs[sources[there]]
