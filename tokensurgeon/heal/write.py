"""The healed model on disk: new rows, merged low-rank updates, everything else as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.cache import copy_small_files
from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.errors import InputError
from tokensurgeon.heal.options import HealOptions
from tokensurgeon.manifest import Manifest
from tokensurgeon.output import WEIGHTS
from tokensurgeon.pair import Side
from tokensurgeon.verify import accepted, verify

if TYPE_CHECKING:
    from tokensurgeon.heal.run import HealReport

__all__ = ["write_healed"]


def write_healed(
    target: Path,
    model: Side,
    teacher: Side,
    rows: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    body: Mapping[str, torch.Tensor],
    options: HealOptions,
    report: HealReport,
    *,
    overwrite: bool,
) -> Path:
    """Write and verify.

    Args:
        target: Output directory.
        model: What was healed.
        teacher: What taught it.
        rows: By matrix (``embedding``, ``head``): ids and their rows.
        body: By parameter: what is added to it.
        options: For the manifest.
        report: For the manifest and the card.
        overwrite: Replace an output that exists.

    Raises:
        InputError: If the checkpoint does not know a parameter that was trained.
        VerificationError: If the written model breaks an invariant.
    """
    files = Checkpoint.open(model.directory)
    layout = find_vocabulary_tensors(model.directory, files.tensors)
    replaced: dict[str, torch.Tensor] = {}
    for matrix, (ids, values) in rows.items():
        name = layout.embedding if matrix == "embedding" else layout.head
        if name is None:
            raise InputError(f"{model.name} has no {matrix} of its own in its checkpoint")
        replaced[name] = files.read(name).clone()
        replaced[name][ids] = values.to(replaced[name].dtype)
    for name, change in body.items():
        stored = next((n for n in (name, name.partition(".")[2], f"model.{name}") if n in files.tensors), None)
        if stored is None:
            raise InputError(f"--lora: {name} is not in the checkpoint under this name. Heal without --lora")
        weight = files.read(stored)
        replaced[stored] = (weight.float() + change.float()).to(weight.dtype)
    healed = options.as_dict() | {
        "teacher": teacher.name, "steps": report.steps, "tokens": report.tokens, "seconds": round(report.seconds, 1),
        "trained_rows": report.rows, "curve": report.curve, "best": report.best,
    }  # fmt: skip
    manifest = Manifest.read(model.directory)
    with staged(target, overwrite) as work:
        if replaced:
            files.write(work, replaced)
        copy_small_files(model.directory, work, (*WEIGHTS, "README.md", "tokensurgeon.json"))
        if manifest is not None:
            manifest = replace(manifest, content=manifest.content | {"healed": healed})
            manifest.write(work)
            manifest.content["verified"] = accepted(verify(work, teacher.directory))
            manifest.write(work)
        (work / "README.md").write_text(_card(model, teacher, healed))
    return target


def _card(model: Side, teacher: Side, healed: dict[str, Any]) -> str:
    before = model.directory / "README.md"
    start, best = healed["curve"][0]["held_out"], healed["best"]["held_out"]
    told = before.read_text("utf-8") if before.is_file() else f"# {model.name}\n"
    what = f"{healed['trained_rows']:,} rows" + (f" and updates of rank {healed['lora']}" if healed["lora"] else "")
    return (
        f"{told.rstrip()}\n\n## Healed\n\n`tokensurgeon heal` trained {what} for {healed['steps']} steps on "
        f"{healed['tokens']:,} tokens, with `{teacher.name}` as teacher. Held-out text of the same kind: {start:.3f} "
        f"bits per byte before, {best:.3f} after. Text of other kinds may have gained less; measure it.\n"
    )
