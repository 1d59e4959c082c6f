"""Write the model: the base's body, new rows, the donor's tokenizer, settings and manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Alignment, Provenance, RowPlan
from tokensurgeon.checkpoint import TokenizerFiles
from tokensurgeon.checkpoint.inherited import inherited
from tokensurgeon.checkpoint.linking import Link
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.side_files import describe_files
from tokensurgeon.checkpoint.small_files import SmallFiles
from tokensurgeon.evaluation.start import described_start
from tokensurgeon.progress import Clock, Progress, Stage
from tokensurgeon.surgery.loss import Ruler
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.verification.digests import recorded_digests
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.tensors import accepted, invariants

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
            `describe_files`, `described_start` and `inherited` give are added.
        dtype: Convert all floating tensors.
        link: How shards of which nothing changes get there.
        alignment: Of both vocabularies, where the tokenizer is another body's: it says which ids of settings no row
            alone stands for, and the length that the tokenizer is said to hold becomes the base's.

    Returns:
        The shards that are the base's own, cloned or linked.
    """
    directory, layout = base.directory, base.layout
    small = SmallFiles(
        base=directory,
        tokenizer=donor.tokenizer,
        stops=donor.directory,
        plan=plan,
        alignment=alignment,
        tied=matrices.head is None,
        dtype=dtype,
        resized=(layout.rows, len(base.vocabulary)) if donor is base else None,
    )
    small.write_others(work)
    small.write_tokenizer(work)
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
    content["removed_settings"] = small.write_settings(work)
    content |= describe_files(base, donor, work) | described_start(plan, base, work, donor.tokenizer)
    restored = len(plan.ids(Provenance.RESTORED))
    if carried := inherited(plan, base.nature, donor.nature if restored else None):
        content["inherited"] = carried
    Manifest(content, plan).write(work)
    return shared


def finish(
    work: Path,
    base: OpenModel,
    donor: OpenModel,
    plan: RowPlan,
    content: dict[str, Any],
    shared: frozenset[str],
    clock: Clock,
    progress: Progress | None,
    ruler: Ruler | None = None,
    device: str | torch.device = "cpu",
) -> list[Check]:
    """Verify what `write_output` wrote, and say so in its manifest.

    Args:
        work: Where it lies.
        base: Whose body it is.
        donor: Whose tokenizer it is.
        plan: Provenance of every row.
        content: The manifest's; ``not_run`` says why the model is not run; ``verified``, ``sha256``,
            ``stages`` and ``seconds`` are added.
        shared: As `write_output` returned it.
        clock: Of the whole work.
        progress: Called with (stage, done, total).
        ruler: Where the model is run, measures what it loses; ``loss`` is added then.
        device: Where the model is run.

    Raises:
        VerificationError: If the model breaks an invariant; it must not stay.
    """
    if progress is not None:
        progress(Stage.VERIFY, 0, 1)
    with clock("verifying"):
        unrun = content["not_run"]
        score = None if ruler is None else ruler.score
        checks = invariants(
            work, base.directory, donor.directory, unrun=unrun, shared=shared, score=score, device=device
        )
        content["verified"] = accepted(checks)
        content["sha256"] = recorded_digests(work, shared)
    if ruler is not None:
        content["loss"] = ruler.loss
    content["stages"] = clock.stages()
    content["seconds"] = clock.seconds
    Manifest(content, plan).write(work)
    return checks
