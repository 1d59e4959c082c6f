"""The pipeline: two models in, one out. The one place where the rooms meet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensurgeon.alignment import Alignment, align
from tokensurgeon.baselines import fasttext_units, goes_by_donor
from tokensurgeon.baselines.auto import Auto
from tokensurgeon.checkpoint.cache import shown_name
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.policy import why_not_run
from tokensurgeon.evaluation.texts import load_texts
from tokensurgeon.progress import Progress
from tokensurgeon.report.card import model_card
from tokensurgeon.report.page import report_page
from tokensurgeon.solver.distributed import rank, world
from tokensurgeon.surgery.new_rows import Pair, rebuild
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import overrides_for, summarise, with_numbers
from tokensurgeon.surgery.record import describe_method, describe_run, describe_solution
from tokensurgeon.surgery.write import seal, write_output
from tokensurgeon.verification.running import Check
from tokensurgeon.vocabulary.schemes import compare_schemes

__all__ = ["TransplantReport", "default_output", "transplant"]

_SHOWN = 65_536
"""Of a text, for the share of its tokens that are anchors."""


@dataclass(frozen=True, slots=True)
class TransplantReport:
    """What was done and what it cost, as plain data around an alignment.

    Attributes:
        out: The written model; None after a dry run, and on ranks that do not write.
        base: The side that keeps its body.
        donor: The side that gives the tokenizer.
        alignment: Provenance of every row.
        summary: The alignment as plain data, with examples, as `summarise` gives it.
        content: The manifest's content.
        checks: Invariants verified on the written model.
    """

    out: Path | None
    base: OpenModel
    donor: OpenModel
    alignment: Alignment
    summary: dict[str, Any]
    content: dict[str, Any]
    checks: list[Check]


def default_output(base: str, donor: str) -> Path:
    """A directory in the current one, named after both models."""

    def short(reference: str) -> str:
        name = Path(shown_name(reference).partition("@")[0]).name
        return name.removesuffix(".gguf") or "model"

    return Path(f"{short(base)}-with-{short(donor)}-tokenizer")


def transplant(
    base: str,
    donor: str,
    out: Path | str | None = None,
    options: TransplantOptions | None = None,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> TransplantReport:
    """Give ``base`` the tokenizer of ``donor`` and write the result.

    Where torch.distributed is initialised, all ranks must call this: each solves its share, rank 0 writes,
    and the others return a report without ``out``.

    Args:
        base: Model that keeps its body: directory, ``.gguf`` file, or hub id.
        donor: Model that gives the tokenizer.
        out: Output directory; by default named after both.
        options: See `TransplantOptions`.
        overwrite: Replace an output that exists.
        dry_run: Align and plan only; nothing is written.
        progress: Called with (stage, done, total) during long stages.

    Raises:
        InputError: If the input cannot be used.
        VerificationError: If the written model breaks an invariant; nothing is left behind.
    """
    options = options or TransplantOptions()
    base, donor = str(base), str(donor)
    target = (Path(out) if out is not None else default_output(base, donor)).expanduser().absolute()
    if not dry_run:
        check_target(target, overwrite, (base, donor))
    started = time.perf_counter()
    left = OpenModel.open(base, "vocabulary" if dry_run else "all").checked(options.dtype)
    right = OpenModel.open(donor, "vocabulary")
    given = right
    right = with_numbers(left, right, options.numbers)
    method = options.reconstruction()
    if isinstance(method, Auto) and world() > 1:
        raise InputError(f"method auto chooses in one process, not in {world()}. Let it choose without torchrun first")
    asked = True if options.calibrate or isinstance(method, Auto) else options.forward
    if asked and left.config.get("is_encoder_decoder"):
        raise InputError(
            f"{base} is an encoder-decoder model, which is not run. Drop --calibrate, --forward, method auto"
        )
    unrun = why_not_run(left.directory, left.checkpoint, left.layout, asked)
    if options.untie and left.layout.head_name is None:
        raise InputError(f"{base}: this architecture has no LM head that could be untied")
    plan = align(
        left.vocabulary,
        right.vocabulary,
        n_rows=right.output_rows(options.pad_to_multiple_of),
        base_rows=left.layout.rows,
        donor_rows=given.layout.rows,
        overrides=overrides_for(right, options),
    )
    n_atoms, k = int((plan.anchors < given.layout.rows).sum()), getattr(method, "k", 1)
    if k > n_atoms and goes_by_donor(method):
        raise InputError(f"k={k} exceeds the {n_atoms} anchors that the two models share. Choose a smaller --k")
    if fasttext_units(method) and not options.text:
        raise InputError("space=fasttext needs a text to train the vectors on. Give --text FILE")
    texts = load_texts([Path(name) for name in options.text], None if options.text else _SHOWN)
    schemes = compare_schemes(left.vocabulary, right.vocabulary)
    content = describe_run(options) | {
        "base": left.described(),
        "donor": given.described(),
        "not_run": unrun,
    }
    if dry_run:
        summary = summarise(left, right, plan, schemes)
        return TransplantReport(None, left, right, plan, summary, content | summary, [])

    pair = Pair(left, right, left.matrices(), given.matrices(), plan)
    made = rebuild(pair, options, method, texts, progress, run=unrun is None)
    plan, details = made.plan, made.details
    if rank() > 0:
        return TransplantReport(None, left, right, plan, {}, content, [])
    summary = summarise(left, right, plan, schemes, {name: text[:_SHOWN] for name, text in texts.items()})
    content |= describe_solution(summary, made.rows, made.held_out)
    content |= describe_method(made.method, made.calibrated, made.choice.as_dict() if made.choice else None)
    with staged(target, overwrite) as work:
        shared = write_output(work, left, right, made.rows.matrices, plan, content, options.dtype, options.link)
        del pair, made  # the large tensors: `verify` reads its own
        checks = seal(work, left, right, plan, content, shared, started, progress)
        write_text(work / "README.md", model_card(content))
        write_text(work / "report.html", report_page(content, summary, details))
    return TransplantReport(target, left, right, plan, summary, content, checks)
