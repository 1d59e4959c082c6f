"""Heal a model from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Provenance, RowPlan, align
from tokensurgeon.checkpoint.manifest import refuse_strangers
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import TextPieces
from tokensurgeon.healing.batches import Pieces
from tokensurgeon.healing.course import HealProgress, HealReport
from tokensurgeon.healing.diloco import group_number, require_diloco
from tokensurgeon.healing.launch import digest_of, freeze, launched
from tokensurgeon.healing.lesson import Lesson
from tokensurgeon.healing.loop import Loop
from tokensurgeon.healing.lora import add_lora, lora_layers, updates_of
from tokensurgeon.healing.meeting import compared
from tokensurgeon.healing.objective import WEIGHTS
from tokensurgeon.healing.options import HealOptions
from tokensurgeon.healing.order import by_weight
from tokensurgeon.healing.own_text import forget_parts, mixed, own_text, part_of, with_own
from tokensurgeon.healing.resume import SavedState, forget, identity_of, key_of, state_directory
from tokensurgeon.healing.texts import divide
from tokensurgeon.healing.trained_rows import AskedHead, TrainedRows, put_in_front
from tokensurgeon.healing.write import Trained, kept_manifest, write_trained
from tokensurgeon.progress import Progress
from tokensurgeon.verification.tensors import invariants

__all__ = ["heal"]


def heal(
    model: str,
    teacher: str,
    out: Path | str,
    options: HealOptions | None = None,
    *,
    overwrite: bool = False,
    progress: HealProgress | None = None,
    reading: Progress | None = None,
) -> HealReport:
    """Train some rows of a transplanted model, or more, to do as its base does.

    Under ``accelerate launch`` or torchrun all processes must call this; the first one writes.

    Args:
        model: The transplanted model.
        teacher: The model that it was made from.
        out: Output directory.
        options: See `HealOptions`.
        overwrite: Replace an output that exists.
        progress: Called with (share done, report so far, last losses), by the first process.
        reading: Called with (stage, pieces of text looked through, in all) before.

    Raises:
        InputError: If the two do not belong together, or the text is too short.
        VerificationError: If the written model breaks an invariant; nothing is left behind but the saved state.

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.HealOptions(text=("text.txt",), steps=2)
        >>> report = tokensurgeon.heal("transplanted", "base", "out", options)
        >>> report.steps
        2
    """
    options = options or HealOptions()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model, teacher))
    texts = divide([Path(name) for name in options.text], options.piece, options.text_weights)
    accelerator = launched(options, "healing")
    if options.diloco is not None:
        require_diloco(options.steps, options.diloco)
    right, left = OpenModel.open(model, "all"), OpenModel.open(teacher, "all")
    right.checked()
    refuse_no_room(target, right, right.layout.rows, link="copy")
    plan = _plan(right, left, teacher)
    if right.layout.dim != left.layout.dim:
        raise InputError(
            f"{model} is {right.layout.dim} wide, {teacher} {left.layout.dim}: it is not what it was made from"
        )
    asked = key_of(identity_of(left), options.own_share, options.piece, options.seed)
    kept = state_directory(target) / f"own-{asked}.json"
    part = part_of(kept, accelerator)
    begun = part.is_file()
    try:
        healed, state = _trained(accelerator, target, right, left, plan, options, kept, texts, progress, reading)
    except InputError:  # which leaves nothing behind that was not there
        if not begun:
            forget(part)
        raise
    accelerator.free_memory()  # of both models, which take no part in writing
    if accelerator.is_main_process:
        write_trained(target, healed, overwrite)
        healed.report.out = target
        state.remove()
        forget(kept)
    accelerator.wait_for_everyone()
    return healed.report


def _trained(
    accelerator: Any,
    target: Path,
    right: OpenModel,
    left: OpenModel,
    plan: RowPlan,
    options: HealOptions,
    kept: Path,
    texts: tuple[TextPieces, Sequence[str], Sequence[str]],
    progress: HealProgress | None,
    reading: Progress | None,
) -> tuple[Trained, SavedState]:
    """Load student and teacher, train, and keep what is to be written of them."""
    given, held_out, other = texts
    student, master = (load_model(side.directory, accelerator.device) for side in (right, left))
    freeze(master.model, accelerator.mixed_precision)
    layers = lora_layers(student.model, options.lora, right) if options.lora else {}
    own = own_text(accelerator, master, options, kept, reading)
    train = with_own(given, own, options.piece)
    pieces = Pieces(train, student, master, (right.vocabulary, left.vocabulary), reading)
    wanted = (Provenance.RECONSTRUCTED, Provenance.TRAINED) if options.rows == "new" else tuple(Provenance)
    used = pieces.used & set(plan.ids(*wanted).tolist())
    ids = torch.tensor(sorted(i for i in used if i < right.layout.rows), dtype=torch.int64)
    if not len(ids) and not options.lora:
        raise InputError(
            f"the text uses none of the {options.rows} tokens: there is nothing to train. Give more --text, or a "
            "--lora above 0"
        )
    some = ids if len(ids) else torch.zeros(1, dtype=torch.int64)  # one that stands still
    trained = TrainedRows.of(student.model, some.to(accelerator.device))
    freeze(student.model, accelerator.mixed_precision)
    names = add_lora(student.model, options.lora, layers)
    put_in_front(student.model, trained)
    master.model.set_output_embeddings(AskedHead(master.model.get_output_embeddings()))
    for rows in trained.values():
        rows.rows.requires_grad_(bool(len(ids)))

    seed = options.seed + (0 if options.diloco is None else group_number())
    of = train.places[pieces.places[:, 0], 0]
    end = int((of < len(given.texts)).sum())
    order = by_weight(of[:end], options.text_weights, seed)
    order = mixed(order, range(end, len(of)), options.own_share, seed)
    theirs, mine = (len(loaded.model.get_output_embeddings().weight) for loaded in (master, student))
    splits, classes, joins = compared(left.vocabulary, right.vocabulary, plan, (theirs, mine))
    lesson = Lesson(student, master, splits, classes.as_read(pieces), joins, WEIGHTS, options.seed)
    lesson.prepare(pieces)
    left_over = replace(options, minutes=max(options.minutes - own.seconds / 60, options.minutes / 2))
    loop = Loop(accelerator, left_over, student, trained, (held_out, other), order)
    identities, read = [identity_of(side) for side in (right, left)], digest_of(train)
    state = SavedState(target, key_of(options.lasting, asdict(WEIGHTS), read, ids.tolist(), *identities))
    alike = {} if options.diloco is None else _alike(options, right, left, key_of(read, held_out))
    if own.texts and accelerator.is_main_process and not kept.is_file():
        own.keep(kept)
    forget_parts(kept, accelerator)
    loop.report.own = {"bytes": own.n_bytes, "seconds": round(own.seconds, 1)} if own.texts else {}
    loop.train(pieces, lesson, state, progress, alike)
    body = updates_of(student.model, names) if accelerator.is_main_process else {}
    rows_now = {name: t.rows.detach().cpu() for name, t in trained.items()} if len(ids) else {}
    found = rows_now, body, options, loop.report, held_out
    return Trained(right, left, ids, *found, kept_manifest(right), lambda out: invariants(out, left.directory)), state


def _alike(options: HealOptions, right: OpenModel, left: OpenModel, text: str) -> dict[str, str]:
    """By name, digests of what must be the same in all groups, which may be on other machines."""
    asked = options.lasting | {"steps": options.steps}
    found = {"text": text, "options": key_of(asked, asdict(WEIGHTS))}
    for name, side in (("model", right), ("teacher", left)):
        tensors = {tensor: side.checkpoint.digest(tensor) for tensor in side.checkpoint.tensors}
        found[name] = key_of(side.tokenizer.digest(), tensors)
    return found


def _plan(model: OpenModel, teacher: OpenModel, name: str) -> RowPlan:
    """Provenance of the model's rows: as its manifest has it, or by the two vocabularies."""
    manifest = kept_manifest(model)
    if manifest is None:
        return align(teacher.vocabulary, model.vocabulary, n_rows=model.layout.rows, base_rows=teacher.layout.rows).plan
    refuse_strangers(model.name, model.layout, manifest, name, teacher.described()["sha256"], teacher.layout)
    return manifest.plan
