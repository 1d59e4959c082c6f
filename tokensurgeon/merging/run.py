"""Merge from end to end: align, merge, choose rows, verify."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.side_files import describe_files
from tokensurgeon.checkpoint.staging import staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.evaluation.policy import why_not_run
from tokensurgeon.merging.mergekit import require_mergekit, run_mergekit
from tokensurgeon.merging.prepare import Prepared, prepare
from tokensurgeon.merging.recipe import read_recipe
from tokensurgeon.merging.rows import MEAN, METHOD, Kind
from tokensurgeon.merging.write import (
    Part,
    fill_rows,
    manifest_of,
    start_of,
    state_dtype,
    verify_merge,
    write_config,
    write_others,
)
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.report.merged import merge_card, merge_page
from tokensurgeon.surgery.record import describe_asked
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.tensors import accepted
from tokensurgeon.vocabulary.visible import shown

__all__ = ["MergeReport", "merge", "write_merge"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was merged.

    Attributes:
        out: The written model.
        content: The manifest's content.
        checks: Invariants verified on the written model.
    """

    out: Path
    content: dict[str, Any]
    checks: list[Check]


def merge(
    recipe: Path | str,
    out: Path | str,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge models, each of which may have a tokenizer of its own, with mergekit.

    Args:
        recipe: A mergekit YAML, with a ``tokensurgeon`` block if wanted; see `tokensurgeon.merging.recipe`.
        out: Output directory.
        seed: For methods that draw.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        MissingDependencyError: Without mergekit.
        InputError: If the recipe or one of its models cannot be used; found before anything is transplanted.
        VerificationError: If the written model breaks an invariant; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.merge("recipe.yaml", "out", seed=1)
        >>> all(check.ok for check in report.checks)
        True
    """
    require_mergekit()
    target, started = Path(out).expanduser().absolute(), time.perf_counter()
    read = read_recipe(Path(recipe).expanduser())
    ready = prepare(read, target, overwrite, [str(recipe)], progress)
    return write_merge(ready, target, seed=seed, overwrite=overwrite, progress=progress, started=started)


def write_merge(
    ready: Prepared,
    target: Path,
    *,
    seed: int,
    overwrite: bool,
    progress: Progress | None,
    started: float,
    told: Mapping[str, Any] | None = None,
) -> MergeReport:
    """Merge what was prepared, write and verify it.

    Args:
        ready: As `prepare` gave it.
        target: Output directory.
        seed: For methods that draw.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).
        started: By `time.perf_counter`, when the whole work began.
        told: What else the manifest is to say of the merge.

    Raises:
        VerificationError: If the written model breaks an invariant; nothing is left behind.
    """
    read, owner, first, parts = ready.read, ready.owner, ready.first, ready.parts
    content = describe_asked(read.options) | {"merge": _described(ready, seed) | dict(told or {})}
    content["merge"]["left_out"] = ready.left_out
    content["versions"]["mergekit"] = version("mergekit")
    with staged(target, overwrite) as work, tempfile.TemporaryDirectory(prefix=".mergekit-", dir=work) as place:
        raw = Path(place)
        content["removed_settings"] = write_config(work, first, owner, ready.layers)
        shutil.copyfile(work / "config.json", raw / "config.json")
        run_mergekit(read.merge, ready.places, raw, seed=seed, device=ready.device, progress=progress)
        if progress is not None:
            progress(Stage.VERIFY, 0, 1)
        fill_rows(raw, work, parts)
        state_dtype(work)
        content["tokenizer_sha256"] = write_others(work, first, owner, ready.template, list(ready.given.values()))
        content |= describe_files(first.model, owner.model, work) | start_of(first, owner)
        files = Checkpoint.open(work)
        unrun = why_not_run(work, files, find_vocabulary_tensors(work, files.tensors), read.options.forward)
        manifest = manifest_of(parts[0].choice, content)
        content |= {"counts": _counted(manifest), "not_run": unrun}
        checks = verify_merge(work, first, owner, parts, manifest, unrun, ready.whole)
        content["verified"] = accepted(checks)
        content["sha256"] = recorded_digests(work)
        content["seconds"] = round(time.perf_counter() - started, 1)
        manifest.write(work)
        lines = content["merge"]["recipe"].rstrip().split("\n")
        told = shown(content | {"merge": content["merge"] | {"recipe": lines}})
        write_text(work / "README.md", merge_card(told))
        write_text(work / "report.html", merge_page(told))
    return MergeReport(target, content, checks)


def _counted(manifest: Manifest) -> dict[str, int]:
    return {p.label: count for p in Provenance if (count := len(manifest.plan.ids(p)))}


def _described(ready: Prepared, seed: int) -> dict[str, Any]:
    """The merge as plain data, for manifest, card and page."""
    read, method, aligned, parts = ready.read, ready.method, ready.aligned, ready.parts
    names = ready.names
    matrices = ("embedding", "head")[: 1 if parts[0].models[0].model.layout.tied else 2]
    return {
        "method": method.spec.name,
        "title": method.spec.pretty_name or method.spec.name,
        "reference": method.spec.reference_url,
        "seed": seed,
        "embeddings": read.embeddings,
        "tokenizer": ready.owner.model.name,
        "recipe": read.text,
        "models": [
            {
                "name": names[one.model.name],
                "base": reference == read.merge.base_model,
                "sha256": one.sha256,
                "transplant": one.transplant.content["counts"] if one.transplant is not None else None,
                "rows": {kind.name.lower(): int((one.kinds == kind).sum()) for kind in Kind},
            }
            for reference, one in aligned.items()
        ],
        "rows": {name: _shares(part, names) for name, part in zip(matrices, parts, strict=False)},
    }


def _shares(part: Part, names: Mapping[str, str]) -> dict[str, Any]:
    taken = part.choice.taken
    return {
        "merged": int((taken == METHOD).sum()),
        "averaged": int((taken == MEAN).sum()),
        "named": len(part.given),
        "taken": {names[one.model.name]: int((taken == i).sum()) for i, one in enumerate(part.models)},
        "differing": part.choice.differing,
    }
