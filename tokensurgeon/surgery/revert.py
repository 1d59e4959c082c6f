"""Give a transplanted model, perhaps trained since, its base's own tokenizer back."""

from __future__ import annotations

from pathlib import Path

import torch

from tokensurgeon.alignment import RowPlan
from tokensurgeon.checkpoint.manifest import Manifest, refuse_strangers
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.policy import VERIFY, why_not_run
from tokensurgeon.progress import Clock, Progress
from tokensurgeon.report.markdown import code, short_card
from tokensurgeon.surgery.record import describe_run
from tokensurgeon.surgery.write import finish, write_output
from tokensurgeon.transfer.rows import VocabularyMatrices
from tokensurgeon.verification.running import Check
from tokensurgeon.vocabulary.visible import visible

__all__ = ["revert"]


def revert(
    model: str,
    base: str,
    out: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Check]:
    """Give a transplanted model its base's tokenizer again.

    Tokens that the transplant copied keep the model's rows bit for bit, with what they may have learnt since. The
    others, which the transplant dropped, get the base's rows. A head that was untied stays so.

    Args:
        model: What ``transplant`` wrote, or what was trained from it; its ``tokensurgeon.json`` is needed.
        base: The model that it was made from.
        out: Output directory.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Returns:
        The invariants that were verified on the written model.

    Raises:
        InputError: If the model has no manifest, or another base.
        VerificationError: If the written model breaks an invariant; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> checks = tokensurgeon.revert("transplanted", "base", "out")
        >>> [check.name for check in checks if not check.ok]
        []
    """
    clock = Clock()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model, base))
    left, right = OpenModel.open(model).checked(), OpenModel.open(base, "vocabulary")
    layout = left.layout
    manifest = Manifest.of_transplant(left.directory)
    if manifest is None:
        raise InputError(f"{model} has no tokensurgeon.json, so nothing says where its rows come from")
    base_layout, described = right.layout, right.described()
    refuse_strangers(model, layout, manifest, base, described["sha256"], base_layout)
    refuse_no_room(target, left, base_layout.rows)
    plan = manifest.plan.reverted(base_layout.rows)
    matrices = _rows(left.matrices(), right.matrices(), plan)
    content = describe_run({}, {"name": "revert"}) | {
        "base": left.described(),
        "donor": described,
        "counts": plan.counts(),
        "anchors": len(plan.anchors),
        "not_run": why_not_run(left.directory, left.checkpoint, layout, None, flag=VERIFY),
    }
    with staged(target, overwrite) as work:
        shared = write_output(work, left, right, matrices, plan, content)
        checks = finish(work, left, right, plan, content, shared, clock, progress)
        write_text(work / "README.md", _card(left, right, plan))
    return checks


def _rows(model: VocabularyMatrices, base: VocabularyMatrices, plan: RowPlan) -> VocabularyMatrices:
    known = torch.from_numpy(plan.source >= 0)
    ids = torch.from_numpy(plan.source)[known]

    def joined(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        rows = old.to(new.dtype, copy=True)
        rows[known] = new[ids]
        return rows

    head, bias = None, None
    if model.head is not None:
        head = joined(model.head, base.embedding if base.head is None else base.head)
    if model.bias is not None and base.bias is not None:
        bias = joined(model.bias, base.bias)
    return VocabularyMatrices(joined(model.embedding, base.embedding), head, bias)


def _card(model: OpenModel, base: OpenModel, plan: RowPlan) -> str:
    counts = plan.counts()
    what = (
        f"Body of {code(model.name)}, tokenizer of {code(base.name)}, from which it was made. {counts['copied']:,} "
        f"rows are the model's, {counts.get('restored', 0):,} that its last tokenizer lacked are the base's. The "
        "licence of the base applies."
    )
    return short_card(visible(f"{model.name} with its own tokenizer again"), visible(what))
