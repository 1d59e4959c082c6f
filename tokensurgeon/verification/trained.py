"""Say what a manifest excuses as trained, and refuse what no healing run can have changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tokensurgeon.alignment import Ids, Provenance
from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.layout import linear_weights
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.verification.running import Check

__all__ = ["made_rows", "trained_checks", "trained_rows", "trained_tensors"]

_RUNS = 8
"""Whose roundings add up, at most: how many runs there were, only the manifest says."""
_OVER = 8
"""Directions looked at beside the rank, so that all of a low-rank change is found."""


def trained_rows(manifest: Manifest) -> Ids:
    """Output ids (ascending) that a healing run may have changed."""
    healed = manifest.content.get("healed")
    return np.array(sorted(healed["rows"]) if healed else [], dtype=np.int64)


def made_rows(manifest: Manifest) -> Ids:
    """Output ids (ascending) that a method made rows for, trained since or not."""
    means = [int(i) for i in manifest.content.get("blends", {})]
    return np.setdiff1d(manifest.plan.ids(Provenance.RECONSTRUCTED, Provenance.TRAINED), means)


def trained_tensors(out: Path, files: Checkpoint, manifest: Manifest) -> frozenset[str]:
    """Body tensors that the manifest excuses and a low-rank update can change."""
    healed = manifest.content.get("healed")
    if not healed or not healed["tensors"] or not _rank(manifest):
        return frozenset()
    return linear_weights(out, files.tensors) & {*healed["tensors"]}


def trained_checks(out: Path, new: Checkpoint, old: Checkpoint, manifest: Manifest) -> Iterator[Check]:
    """What was trained, loudly; nothing but what the runs that are listed can have changed."""
    healed = manifest.content.get("healed")
    if healed is None:
        return
    rows, named, plan = trained_rows(manifest), {*healed["tensors"]}, manifest.plan
    tensors, rank = trained_tensors(out, new, manifest), _rank(manifest)
    only_new = all(run.get("rows") == "new" for run in healed["runs"])
    allowed = made_rows(manifest) if only_new else np.setdiff1d(np.arange(plan.n_rows), plan.silenced)
    wrong = [f"{name}, which no run trains" for name in sorted(named - tensors)]
    wrong += [f"row {i}, which no run trains" for i in np.setdiff1d(rows, allowed).tolist()]
    full = [name for name in sorted(tensors) if rank >= min(new.tensors[name].shape)]
    wrong += [f"{name}, whose smaller side is {min(new.tensors[name].shape)}, by rank {rank}" for name in full]
    wrong += [
        f"{name}, which changed by more than rank {rank}"
        for name in sorted(tensors.difference(full))
        if name in old.tensors and not _is_low_rank(new.read(name), old.read(name), rank, len(healed["runs"]))
    ]
    body = f" and {len(tensors)} body tensors, by updates of rank {rank}" if tensors else ""
    detail = f"{len(rows)} rows{body}: they are what training made of them, which nothing here can prove"
    shown = "; ".join(wrong[:3]) + (f"; {len(wrong) - 3} more" if wrong[3:] else "")
    yield Check("trained", not wrong, f"the manifest excuses {shown}" if wrong else detail, note=not wrong)


def _rank(manifest: Manifest) -> int:
    """Of all low-rank updates together."""
    ranks = [run.get("lora") for run in manifest.content["healed"]["runs"]]
    return sum(rank for rank in ranks if rank is not None)


def _is_low_rank(new: torch.Tensor, old: torch.Tensor, rank: int, runs: int) -> bool:
    """Whether one tensor is the other with an update of a rank, up to rounding at the end of every run."""
    if new.shape != old.shape or new.ndim != 2 or not new.is_floating_point():
        return False
    change = new.float() - old.float()
    generator = torch.Generator().manual_seed(0)
    width = min(rank + _OVER, *change.shape)
    basis = torch.linalg.qr(change @ torch.randn(change.shape[1], width, generator=generator))[0]
    left = torch.linalg.matrix_norm(change - basis @ (basis.T @ change))
    rounding = torch.finfo(new.dtype).eps * max(new.float().norm(), old.float().norm()) * min(runs, _RUNS)
    return bool(left <= rounding + 1e-5 * change.norm())
