"""Transplant a tokenizer: two models in, one out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tokensurgeon.alignment import Alignment, Provenance, align
from tokensurgeon.alignment.match import placeholders
from tokensurgeon.alignment.summary import CountedText
from tokensurgeon.checkpoint.cache import shown_name
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.pinning import choose_class
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import write_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import load_model, pick_device
from tokensurgeon.evaluation.policy import why_not_run
from tokensurgeon.evaluation.texts import open_texts
from tokensurgeon.progress import Clock, Progress
from tokensurgeon.report.card import model_card
from tokensurgeon.report.page import report_page
from tokensurgeon.solver.distributed import rank, world
from tokensurgeon.surgery.body import ask_base
from tokensurgeon.surgery.loss import Ruler
from tokensurgeon.surgery.new_rows import make_rows, pick_method
from tokensurgeon.surgery.options import TransplantOptions
from tokensurgeon.surgery.pair import Pair, overrides_for, summarise, with_numbers
from tokensurgeon.surgery.prediction import predict
from tokensurgeon.surgery.record import describe_asked, describe_method, describe_solution, learnt_from
from tokensurgeon.surgery.write import finish, write_output
from tokensurgeon.transfer.damage import refuse_damaged, refuse_uniform
from tokensurgeon.transfer.diagnose import describe_outliers
from tokensurgeon.transfer.protocol import Method
from tokensurgeon.transfer.rows import VocabularyMatrices, atom_ids, drop_rowless, odd_anchors
from tokensurgeon.transfer.untrained import untrained_ids
from tokensurgeon.verification.running import Check
from tokensurgeon.vocabulary.schemes import compare_schemes
from tokensurgeon.vocabulary.visible import shown

__all__ = ["TransplantReport", "default_output", "transplant"]

_SHOWN = 65_536
"""Of a text, for the share of its tokens that are anchors."""


@dataclass(frozen=True, slots=True)
class TransplantReport:
    """What was done and what it cost, as plain data around an alignment.

    Attributes:
        out: The written model; None after a dry run, and on ranks that do not write.
        base: Keeps its body.
        donor: Gives the tokenizer.
        alignment: What both have in common: the provenance of every row.
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

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.TransplantOptions(k=8)
        >>> report = tokensurgeon.transplant("base", "donor", "out", options)
        >>> [check.name for check in report.checks if not check.ok]
        []
    """
    options = options or TransplantOptions()
    base, donor = str(base), str(donor)
    target = (Path(out) if out is not None else default_output(base, donor)).expanduser().absolute()
    if not dry_run:
        check_target(target, overwrite, (base, donor))
    clock = Clock()
    with clock("opening models and tokenizers"):
        left = OpenModel.open(base, "vocabulary" if dry_run else "all").checked(options.dtype)
        given = OpenModel.open(donor, "vocabulary")
        given.refuse_misfit()
        right = with_numbers(left, given, options.numbers)
        choose_class(right.tokenizer, left.directory)  # raises what it has to say before anything is solved
    method = None if options.auto else options.reconstruction()
    if method is None and world() > 1:
        raise InputError(f"method auto chooses in one process, not in {world()}. Let it choose without torchrun first")
    run = True if options.calibrate or method is None else options.forward
    if run and left.config.get("is_encoder_decoder"):
        raise InputError(
            f"{base} is an encoder-decoder model, which is not run. Drop --calibrate, --forward, method auto"
        )
    unrun = why_not_run(left.directory, left.checkpoint, left.layout, run, options.device)
    if options.untie and left.layout.head_name is None:
        raise InputError(f"{base}: this architecture has no LM head that could be untied")
    rows = right.output_rows(options.pad_to_multiple_of)
    if not dry_run:
        refuse_no_room(target, left, rows, untie=options.untie, dtype=options.dtype, link=options.link)
    with clock("aligning"):
        ours = left.matrices()
        alignment = align(
            left.vocabulary,
            right.vocabulary,
            n_rows=rows,
            base_rows=left.layout.rows,
            donor_rows=given.layout.rows,
            overrides=overrides_for(right, options),
            untrained=untrained_ids(left.vocabulary, ours.embedding, placeholders(left.vocabulary)),
        )
    if method is not None:
        _refuse_method(method, options, int((alignment.plan.anchors < given.layout.rows).sum()))
    texts = open_texts([Path(name) for name in options.text], None if options.text else _SHOWN)
    schemes = compare_schemes(left.vocabulary, right.vocabulary)
    content = describe_asked(options) | {
        "base": left.described(),
        "donor": given.described(),
        "not_run": unrun,
        "blends": {str(i): [blend.input, blend.head, blend.tied] for i, blend in alignment.blends.items()},
        "beginning": alignment.beginning,
        "beginning_token": None if alignment.beginning is None else right.vocabulary.pieces[alignment.beginning],
    }
    if dry_run:
        summary = summarise(left, right, alignment, schemes)
        if options.score and (method is None or method.needs == "donor"):
            content["prediction"] = predict(left, right, alignment, texts)
        return TransplantReport(None, left, right, alignment, summary, content | summary, [])

    matrices = ours, given.matrices()
    refuse_damaged("base", matrices[0], alignment.plan.source[alignment.plan.copied])
    if method is None or method.needs == "donor":
        _refuse_unusable(left, given, *matrices, alignment, options)
        alignment = drop_rowless(alignment, matrices[1])
    pair = Pair(left, right, *matrices, alignment)
    with clock("reading text through the base"):
        loaded, asked = ask_base(pair, options, texts, progress) if unrun is None and rank() == 0 else (None, None)
    ruler = None
    if options.score and unrun is None and rank() == 0:
        with clock("scoring the base"):
            device = pick_device(options.device)
            whole = loaded or load_model(left.directory, device, fast=True, files=left.tokenizer)
            ruler = Ruler.read(pair, whole, texts if options.text else {})
            del whole
    with clock("choosing the method"):
        picked = pick_method(pair, loaded, asked, options, texts, progress)
    del loaded
    made = make_rows(pair, picked, asked, options, texts, progress, clock)
    if rank() > 0:
        return TransplantReport(None, left, right, alignment, {}, content, [])
    plan, details, odd = alignment.plan, made.details, odd_anchors(alignment.plan, pair.donor_matrices)
    sides = left.vocabulary, right.vocabulary
    counted = {name: CountedText.of(*sides, [text.beginning(_SHOWN)]) for name, text in texts.items()}
    summary = summarise(left, right, alignment, schemes, counted)
    content |= describe_solution(summary, made.rows, made.held_out)
    content |= {
        "method": describe_method(picked.method),
        "calibrated": made.calibrated,
        "learnt_from": learnt_from(picked.method, alignment.plan, pair.donor_matrices),
        "outliers": describe_outliers(right.vocabulary, summary["counts"]["reconstructed"], made.rows.outliers, odd),
        "choice": picked.choice.as_dict() if picked.choice else None,
    }
    if options.score and unrun is not None and picked.method.needs == "donor":  # what the prediction was fitted to
        content["prediction"] = predict(left, right, alignment, texts)
    with staged(target, overwrite) as work:
        written, dtype, link = made.rows.matrices, options.dtype, options.link
        with clock("writing"):
            shared = write_output(work, left, right, written, plan, content, dtype, link, alignment)
        del pair, matrices, ours, made, written  # the large tensors: `verify` reads its own
        device = pick_device(options.device)
        checks = finish(work, left, right, plan, content, shared, clock, progress, ruler, device)
        write_text(work / "README.md", model_card(shown(content)))
        write_text(work / "report.html", report_page(shown(content), shown(summary), shown(details)))
    return TransplantReport(target, left, right, alignment, summary, content, checks)


def _refuse_unusable(
    base: OpenModel,
    donor: OpenModel,
    ours: VocabularyMatrices,
    theirs: VocabularyMatrices,
    alignment: Alignment,
    options: TransplantOptions,
) -> None:
    """Rows of the donor that methods go by, and the base's."""
    plan = alignment.plan
    known = atom_ids(plan, theirs)
    ids = np.concatenate([known, plan.ids(Provenance.RECONSTRUCTED)])
    refuse_damaged("donor", theirs if ours.head is not None or options.untie else replace(theirs, head=None), ids)
    refuse_uniform(donor.name, theirs.embedding, ids)
    refuse_uniform(base.name, ours.embedding, plan.source[known])


def _refuse_method(method: Method, options: TransplantOptions, n_atoms: int) -> None:
    """A method that needs more than there is."""
    if (k := getattr(method, "k", 1)) > n_atoms and method.needs == "donor":
        raise InputError(f"k={k} exceeds the {n_atoms} anchors that the two models share. Choose a smaller --k")
    if method.needs == "fasttext" and not options.text:
        raise InputError("space=fasttext needs a text to train the vectors on. Give --text FILE")
