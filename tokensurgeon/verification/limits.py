"""Hold rows that are not made again against what the base's rows are like."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tokensurgeon.alignment import Ids
from tokensurgeon.transfer.outliers import Scale, usual
from tokensurgeon.transfer.protocol import parts
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.running import Check

__all__ = ["limit_checks"]

_SPARE = 2.0
"""Times the limits: calibration and training come after them."""


def limit_checks(evidence: Evidence, ids: Ids) -> Iterator[Check]:
    """None is longer than the base's rows, or, where no calibration moved it, farther from them all.

    Args:
        evidence: The models.
        ids: Rows of the output.
    """
    if not len(ids):
        return
    new, old, plan = evidence.out.matrices(), evidence.base.matrices(), evidence.manifest.plan
    known = torch.from_numpy(plan.source[plan.copied])
    source = plan.source[ids]
    beyond: list[str] = []
    pairs = [(new.embedding, old.embedding), (new.head, old.embedding if old.head is None else old.head)]
    for rows, own in pairs:
        if rows is None:
            continue
        shifted = bool(evidence.content.get("calibrated")) and (rows is new.head or new.head is None)
        scale = Scale.of(own[usual(own, known)])
        for part in parts(len(ids)):
            some, of = ids[part], source[part]
            times = scale.excess(rows[torch.from_numpy(some)].float())
            if shifted:  # many nats along one direction may be far for the few rows that vary in it
                times[:, 1] = times[:, 0]
            limit = torch.ones_like(times)
            copied = torch.from_numpy(of >= 0)
            limit[copied] = scale.excess(own[torch.from_numpy(of[of >= 0])].float()).clamp(min=1)
            worst = torch.where(times.isnan(), torch.inf, times / limit).amax(dim=1)
            beyond += [
                f"id {i} ({t:.3g} times)" for i, t in zip(some.tolist(), worst.tolist(), strict=True) if t > _SPARE
            ]
    shown = ", ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if beyond[3:] else "")
    detail = (
        f"{shown}: unlike the base's rows" if beyond else f"{len(ids)} rows that are not made again are like the base's"
    )
    yield Check("rows in their limits", not beyond, detail)
