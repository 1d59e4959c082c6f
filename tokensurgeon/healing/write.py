"""Write a trained model: new rows, merged low-rank updates, everything else as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.foreign import is_taken
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.checkpoint.text import read_text, write_text
from tokensurgeon.errors import VerificationError
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.score import score_text
from tokensurgeon.healing.course import HealReport
from tokensurgeon.healing.options import TrainingOptions
from tokensurgeon.report.markdown import code, plain
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.tensors import accepted
from tokensurgeon.vocabulary.visible import visible

__all__ = ["Trained", "changed_tensors", "kept_manifest", "with_run", "write_trained"]

_HEADINGS = {"heal": "Healed", "distil": "Distilled"}
_ROUNDING = 0.002
"""Bits per byte by which the written model may be worse than the start, which was scored in another precision."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a training.

    Attributes:
        model: What was trained.
        teacher: What taught it.
        ids: (n,) int64, the rows that were trained.
        rows: By matrix (``embedding``, ``head``): (n, dim) these rows.
        body: By tensor of the checkpoint: what is added to it.
        options: For the manifest.
        report: For the manifest and the card.
        held_out: Text to score.
        manifest: The model's, where what was written goes on being what it tells of.
        checks: What must hold of what was written, beside a manifest.
        command: What trained it.
    """

    model: OpenModel
    teacher: OpenModel
    ids: torch.Tensor
    rows: Mapping[str, torch.Tensor]
    body: Mapping[str, torch.Tensor]
    options: TrainingOptions
    report: HealReport
    held_out: Sequence[str]
    manifest: Manifest | None
    checks: Callable[[Path], list[Check]]
    command: str = "heal"

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those of the checkpoint that are not as they were, by name."""
        return changed_tensors(self.model, self.ids, self.rows, self.body)

    def run(self) -> dict[str, Any]:
        """The training as plain data."""
        report = self.report
        return self.options.as_dict() | {
            "command": self.command, "teacher": self.teacher.name, "steps": report.steps, "tokens": report.tokens,
            "positions": report.positions, "seconds": round(report.seconds, 1), "trained_rows": report.rows,
            "curve": report.curve, "best": report.best, **({"own": report.own} if report.own else {}),
        }  # fmt: skip


def changed_tensors(
    model: OpenModel, ids: torch.Tensor, rows: Mapping[str, torch.Tensor], body: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Those of a checkpoint that training changed, by name.

    Args:
        model: What was trained.
        ids: (n,) int64, the rows that were.
        rows: By matrix (``embedding``, ``head``): (n, dim) these rows.
        body: By tensor of the checkpoint: what is added to it.
    """
    files, layout = model.checkpoint, model.layout
    found: dict[str, torch.Tensor] = {}
    for matrix, values in rows.items():
        name = layout.embedding if matrix == "embedding" or layout.head is None else layout.head
        found[name] = files.read(name).clone()
        found[name][ids] = values.to(found[name].dtype)
    found |= {name: found[original] for name, original in model.copies.items() if original in found}
    for name, change in body.items():
        weight = files.read(name)
        found[name] = (weight.float() + change.float()).to(weight.dtype)
    return found


def write_trained(target: Path, trained: Trained, overwrite: bool) -> None:
    """Write, verify, and score once more what was written.

    Raises:
        VerificationError: If the written model breaks an invariant, or has become worse.
    """
    model, run, before = trained.model, trained.run(), trained.report.curve[0]["held_out"]
    manifest = trained.manifest
    with staged(target, overwrite) as work:
        shared = model.checkpoint.write(work, trained.tensors(), frozenset(model.layout.stale))
        model.tokenizer.write(work, code=True)
        for path in other_files(model.directory):
            if not (work / path.name).exists():
                shutil.copyfile(path, work / path.name)
        if manifest is not None:
            manifest = with_run(manifest, run, trained.ids if trained.rows else trained.ids[:0], sorted(trained.body))
            manifest.write(work)
            manifest.content["verified"] = accepted(trained.checks(work))
            manifest.content["sha256"] = recorded_digests(work, shared, manifest.content.get("sha256"))
        loaded = load_model(work)
        run["written"] = score_text(loaded.model, loaded.encode, loaded.prefix, trained.held_out).bits_per_byte
        if run["written"] > before + _ROUNDING:
            raise VerificationError(
                f"the trained model was discarded: as written it scores {run['written']:.4f} bits per byte on held-out "
                f"text, and {before:.4f} before. Its dtype may be too coarse for what it learnt"
            )
        if manifest is not None:
            manifest.write(work)
        write_text(work / "README.md", _card(trained, run))


def kept_manifest(model: OpenModel) -> Manifest | None:
    """The manifest that a healed model keeps; none where it is a merge: training ends what a merge's tells of rows."""
    manifest = Manifest.read(model.directory)
    if manifest is not None and "merge" in manifest.content:
        return None
    return Manifest.of_transplant(model.directory)


def with_run(manifest: Manifest, run: dict[str, Any], ids: torch.Tensor, tensors: Sequence[str]) -> Manifest:
    """The manifest with one more run; what all runs together may have changed is what `verify` leaves out."""
    before = manifest.content.get("healed") or {"runs": [], "rows": [], "tensors": []}
    healed = {
        "runs": [*before["runs"], run],
        "rows": sorted({*before["rows"], *ids.tolist()}),
        "tensors": sorted({*before["tensors"], *tensors}),
    }
    plan = manifest.plan.trained(ids.numpy())
    return replace(manifest, content=manifest.content | {"healed": healed, "counts": plan.counts()}, plan=plan)


def _card(trained: Trained, run: dict[str, Any]) -> str:
    before = trained.model.directory / "README.md"
    card = read_text(before) if is_taken(before) else f"# {plain(visible(trained.model.name))}\n"
    body = f" and updates of rank {run['lora']} of the body" if run["lora"] else ""
    what = f"{run['trained_rows']:,} rows{body or (' and the body' if trained.body else '')}"
    start, best, taught = run["curve"][0], run["best"], code(visible(trained.teacher.name))
    return (
        f"{card.rstrip()}\n\n## {_HEADINGS[trained.command]}\n\n`tokensurgeon {trained.command}` trained {what} for "
        f"{run['steps']} steps on {run['tokens']:,} tokens, with {taught} as teacher. Bits per byte on held-out text "
        f"of the kind that it was trained on: {start['held_out']:.3f} before, {best['held_out']:.3f} after; on text of "
        f"another kind: {start['other']:.3f} before, {best['other']:.3f} after.\n"
    )
