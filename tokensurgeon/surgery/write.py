"""Write the model: the base's body, new rows, the donor's tokenizer, settings and manifest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Alignment, Provenance, RowPlan
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.linking import Link
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.settings import write_resized, write_settings
from tokensurgeon.checkpoint.side_files import copy_side_files, describe_files, fit_body
from tokensurgeon.progress import Progress, Stage
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.tensors import accepted, verify

__all__ = ["finish", "write_output"]


def write_output(
    work: Path,
    base: OpenModel,
    donor: OpenModel,
    matrices: VocabularyMatrices,
    plan: RowPlan,
    content: dict[str, Any],
    dtype: str | None = None,
    link: Link = "auto",
    alignment: Alignment | None = None,
) -> frozenset[str]:
    """Write the base's body and files, the new rows, the donor's tokenizer, settings and manifest; no card, no report.

    Args:
        work: An empty directory.
        base: Whose body it is.
        donor: Whose tokenizer it is; the base itself where only the number of rows changes, and settings stay.
        matrices: The output's vocabulary-sized tensors.
        plan: Provenance of every row.
        content: The manifest's; ``tokenizer_sha256``, ``removed_settings``, ``linked`` and what
            `describe_files` gives are added.
        dtype: Convert all floating tensors.
        link: How shards of which nothing changes get there.
        alignment: Of both vocabularies, where the tokenizer is another body's: it says which ids of settings no row
            alone stands for, and the length that the tokenizer is said to hold becomes the base's.

    Returns:
        The shards that are the base's own, cloned or linked.
    """
    directory, layout = base.directory, base.layout
    copy_side_files(directory, work)
    donor.tokenizer.write(work, code=alignment is None)
    choose_class(donor.tokenizer, directory, foreign=alignment is not None).write(work)
    if alignment is not None:
        fit_body(work, directory, donor.tokenizer.tokenizer)
    content["tokenizer_sha256"] = TokenizerFiles.open(work).digest()
    replaced = {layout.embedding: matrices.embedding}
    if matrices.head is not None and layout.head_name is not None:
        replaced[layout.head_name] = matrices.head
    if matrices.bias is not None and layout.bias is not None:
        replaced[layout.bias] = matrices.bias
    replaced |= {name: replaced[original] for name, original in base.copies.items()}
    dropped = frozenset(layout.stale) - set(replaced)
    shared = base.checkpoint.write(work, replaced, dropped, getattr(torch, dtype) if dtype else None, link)
    content["linked"] = sorted(name for name in shared if (work / name).samefile(directory / name))
    if donor is base:
        removed = write_resized(directory, work, layout.rows, plan.n_rows, len(base.vocabulary))
    else:
        new_ids: dict[int, list[int]] = {}
        for token_id in plan.anchors.tolist():
            new_ids.setdefault(int(plan.source[token_id]), []).append(token_id)
        for token_id, blend in (alignment.roles if alignment else {}).items():
            new_ids.setdefault(blend.head[0], []).append(token_id)
        removed = write_settings(
            directory,
            donor.directory,
            work,
            donor.tokenizer,
            new_ids,
            plan.n_rows,
            tied=matrices.head is None,
            dtype=dtype,
            padding=plan.ids(Provenance.PADDING).tolist(),
            beginning=alignment.beginning if alignment else None,
        )
    content["removed_settings"] = removed
    content |= describe_files(base, donor, work)
    Manifest(content, plan).write(work)
    return shared


def finish(
    work: Path,
    base: OpenModel,
    donor: OpenModel,
    plan: RowPlan,
    content: dict[str, Any],
    shared: frozenset[str],
    started: float,
    progress: Progress | None,
) -> list[Check]:
    """Verify what `write_output` wrote, and say so in its manifest.

    Args:
        work: Where it lies.
        base: Whose body it is.
        donor: Whose tokenizer it is.
        plan: Provenance of every row.
        content: The manifest's; ``not_run`` says why the model is not run; ``verified`` and ``seconds`` are added.
        shared: As `write_output` returned it.
        started: When the work began, by ``time.perf_counter``.
        progress: Called with (stage, done, total).

    Raises:
        VerificationError: If the model breaks an invariant; it must not stay.
    """
    if progress is not None:
        progress(Stage.VERIFY, 0, 1)
    checks = verify(work, base.directory, donor.directory, unrun=content["not_run"], shared=shared)
    content["verified"] = accepted(checks)
    content["seconds"] = round(time.perf_counter() - started, 1)
    Manifest(content, plan).write(work)
    return checks
