"""Distil a model from end to end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import align
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.staging import check_target
from tokensurgeon.distilling.body import changes_of, train_body
from tokensurgeon.distilling.cache import TopCache
from tokensurgeon.distilling.lesson import TaughtLesson
from tokensurgeon.distilling.on_policy import distil_on_policy
from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.distilling.served import ServedTeacher
from tokensurgeon.distilling.teacher import LocalTeacher, read_pieces, without_weights
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.evaluation.texts import TextPieces
from tokensurgeon.healing.batches import Pieces
from tokensurgeon.healing.course import HealProgress, HealReport
from tokensurgeon.healing.launch import digest_of, freeze, launched
from tokensurgeon.healing.loop import Loop
from tokensurgeon.healing.lora import add_lora, lora_layers, updates_of
from tokensurgeon.healing.meeting import Classes, compared
from tokensurgeon.healing.order import Order, by_weight
from tokensurgeon.healing.resume import SavedState, identity_of, key_of
from tokensurgeon.healing.splits import Splits
from tokensurgeon.healing.texts import divide
from tokensurgeon.healing.trained_rows import TrainedRows, put_in_front
from tokensurgeon.healing.write import Trained, kept_manifest, write_trained
from tokensurgeon.progress import Progress
from tokensurgeon.verification.running import run_checks

__all__ = ["DistilReport", "distil"]


@dataclass(slots=True)
class DistilReport:
    """How it went.

    Attributes:
        training: As of a healing.
        pieces: Of text that the training may come to.
        read: Those among them that this process let the teacher read; the cache had the others.
        reading_s: What that took.
    """

    training: HealReport
    pieces: int = 0
    read: int = 0
    reading_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Sides:
    """Student and teacher, and what they have in common."""

    student: OpenModel
    teacher: OpenModel
    splits: Splits
    classes: Classes

    @classmethod
    def of(cls, student: OpenModel, teacher: OpenModel, served: ServedTeacher | None = None) -> _Sides:
        mine, theirs = student.vocabulary, teacher.vocabulary
        rows = teacher.layout.rows if served is None else served.rows, student.layout.rows
        plan = align(theirs, mine, n_rows=rows[1], base_rows=rows[0]).plan
        splits, classes, _ = compared(theirs, mine, plan, rows)
        return cls(student, teacher, splits, classes)


def distil(
    student: str,
    teacher: str,
    out: Path | str,
    options: DistilOptions | None = None,
    *,
    server: str | None = None,
    cache: Path | str | None = None,
    overwrite: bool = False,
    progress: HealProgress | None = None,
    reading: Progress | None = None,
) -> DistilReport:
    """Train a student on what a teacher believes of text, with the teacher's tokenizer or with its own.

    The teacher first reads all of the text that the training may come to, and what it says is kept; then it is let go
    of, and the student is trained. Under ``accelerate launch`` or torchrun all processes must call this.

    The loss is the divergence of the student's next-token distribution from the teacher's. Where their tokenizers
    differ the latter is put into the student's ids by marginalisation over byte prefixes (arXiv 2607.22334). With
    ``options.on_policy`` all of this is otherwise: see `tokensurgeon.distilling.on_policy.distil_on_policy`.

    Args:
        student: The model to train.
        teacher: The model to learn from.
        out: Output directory.
        options: See `DistilOptions`.
        server: URL of a vLLM or llama-server that runs the teacher, such as ``http://localhost:8000``; of the teacher's
            files only tokenizer and config are used then.
        cache: Directory in which what the teacher says stays, for other students and runs; None keeps it beside the
            output until that is written.
        overwrite: Replace an output that exists.
        progress: Called with (share done, report so far, last losses), by the first process.
        reading: Called with (stage, pieces of text read, in all) before.

    Raises:
        InputError: If a model, the text or the server cannot be used.
        VerificationError: If the written model breaks an invariant; nothing is left behind but the saved state.

    Example:
        >>> import tokensurgeon
        >>> options = tokensurgeon.DistilOptions(text=("text.txt",), steps=2)
        >>> tokensurgeon.distil("base", "donor", "distilled", options).training.steps
        2
    """
    options = options or DistilOptions()
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (student, teacher))
    if options.on_policy is not None:
        if cache is not None or server is not None:
            told = f"{'server' if cache is None else 'cache'}={server if cache is None else cache}"
            raise InputError(f"{told} is not for on_policy: a teacher here reads what the student writes. Leave it out")
        return DistilReport(distil_on_policy(student, teacher, target, options, overwrite, progress))
    texts = divide([Path(name) for name in options.text], options.piece, options.text_weights)
    accelerator = launched(options, "distilling")
    right, left = OpenModel.open(student, "all"), OpenModel.open(teacher, "all" if server is None else "none")
    right.checked()
    reader, served = without_weights(left), None
    if server is None:
        left.refuse_misfit()
    else:
        served = ServedTeacher.at(server, left, reader, options.top)
    known = identity_of(left) if served is None else served.identity
    refuse_no_room(target, right, right.layout.rows, link="copy")
    cutter = without_weights(right)
    layers = lora_layers(cutter.model, options.rank, right) if options.rank else {}  # refused before a teacher reads
    sides = _Sides.of(right, left, served)
    pieces = Pieces(texts[0], cutter, reader, (right.vocabulary, left.vocabulary), reading)
    order = by_weight(texts[0].places[pieces.places[:, 0], 0], options.text_weights, options.seed)
    state = SavedState(target, key_of(options.lasting, digest_of(texts[0]), identity_of(right), known), "distilling")
    place = Path(cache).expanduser().absolute() if cache is not None else state.directory / "teacher"
    kept = TopCache(place, key_of(known, options.top))
    report = _read(sides, served, pieces, order, options, kept, accelerator, reading)
    accelerator.free_memory()  # of the teacher, which nothing holds by now
    trained = _trained(sides, layers, pieces, texts, order, options, kept, accelerator, state, progress)
    report.training = trained.report
    accelerator.free_memory()
    if accelerator.is_main_process:
        write_trained(target, trained, overwrite)
        report.training.out = target
        if cache is None:
            kept.remove()
        state.remove()
    accelerator.wait_for_everyone()
    return report


def _read(
    sides: _Sides,
    served: ServedTeacher | None,
    pieces: Pieces,
    order: Order,
    options: DistilOptions,
    cache: TopCache,
    accelerator: Any,
    progress: Progress | None,
) -> DistilReport:
    """Have all that the training may come to in the cache; each process reads a part."""
    updates = None if options.steps is None else options.steps * options.batch * accelerator.num_processes
    whole = updates is None or updates >= len(pieces)
    numbers = list(range(len(pieces))) if whole else sorted({order(i) for i in range(updates or 0)})
    report = DistilReport(HealReport(), len(numbers))
    if options.teacher_weight:
        own = numbers[accelerator.process_index :: accelerator.num_processes]
        teacher = served or LocalTeacher(sides.teacher, options.top, accelerator.device)
        begun = time.perf_counter()
        report.read = read_pieces(pieces, own, teacher, cache, progress)
        report.reading_s = time.perf_counter() - begun
    accelerator.wait_for_everyone()
    return report


def _trained(
    sides: _Sides,
    layers: dict[str, str],
    pieces: Pieces,
    texts: tuple[TextPieces, Sequence[str], Sequence[str]],
    order: Order,
    options: DistilOptions,
    cache: TopCache,
    accelerator: Any,
    state: SavedState,
    progress: HealProgress | None,
) -> Trained:
    """Load the student, train, and keep what is to be written of it."""
    opened, (_, held_out, other) = sides.student, texts
    student = load_model(opened.directory, accelerator.device)
    ids = torch.tensor(sorted(i for i in pieces.used if i < opened.layout.rows), dtype=torch.int64)
    rows = TrainedRows.of(student.model, ids.to(accelerator.device))
    freeze(student.model, accelerator.mixed_precision)
    names = train_body(student.model, opened) if options.whole else add_lora(student.model, options.rank, layers)
    put_in_front(student.model, rows)
    classes = sides.classes.as_read(pieces) if options.teacher_weight else sides.classes
    lesson = TaughtLesson(student, cache, sides.splits, classes, options.teacher_weight)
    loop = Loop(accelerator, options, student, rows, (held_out, other), order)
    loop.train(pieces, lesson, state, progress)
    body: dict[str, torch.Tensor] = {}
    if accelerator.is_main_process:
        body = changes_of(student.model, opened, names) if options.whole else updates_of(student.model, names)
    now = {name: matrix.rows.detach().cpu() for name, matrix in rows.items()}
    # a body that was trained itself is no longer the base's, of which the manifest tells
    manifest = None if options.whole else kept_manifest(opened)
    found = now, body, options, loop.report, held_out
    return Trained(opened, sides.teacher, ids, *found, manifest, run_checks, "distil")
