"""Let a student write, and a teacher say what it thinks of that, by TRL's trainers."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.distilling.prompts import Prompts
from tokensurgeon.distilling.teacher import without_weights
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.evaluation.loading import load_model
from tokensurgeon.healing.course import Course, HealProgress, HealReport
from tokensurgeon.healing.launch import freeze, launched
from tokensurgeon.healing.lora import add_lora, lora_layers, updates_of
from tokensurgeon.healing.texts import divide
from tokensurgeon.healing.write import Trained, kept_manifest, write_trained
from tokensurgeon.verification.running import run_checks

__all__ = ["distil_on_policy"]


def distil_on_policy(
    student: str, teacher: str, target: Path, options: DistilOptions, overwrite: bool, progress: HealProgress | None
) -> HealReport:
    """Train low-rank updates of a student's body, in one process. What is interrupted begins anew.

    Prompts are beginnings of pieces of the text. In ``options.on_policy`` of all pieces the student goes on from them
    itself; in the others the text does. With the teacher's ids TRL's GKDTrainer compares whole distributions, with
    others GOLDTrainer those of spans that both tokenizers end alike.

    Args:
        student: The model to train.
        teacher: The model to learn from.
        target: Output directory, checked.
        options: See `DistilOptions`.
        overwrite: Replace an output that exists.
        progress: Called with (share done, report so far, last losses).

    Raises:
        InputError: If TRL cannot train these two, or the text is too little.
        MissingDependencyError: If TRL is not there.
        VerificationError: If the written model breaks an invariant; nothing is left behind.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it may change, which is why our range of it is narrow
            from tokensurgeon.distilling.trainers import comparable, silent, trainer_of
    except ImportError as error:
        raise MissingDependencyError("trl", "trl", "--on-policy") from error

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--on-policy trains in one process. Start it without accelerate launch or torchrun")
    texts = divide([Path(name) for name in options.text], options.piece, options.text_weights)
    accelerator = launched(options, "--on-policy")
    right, left = OpenModel.open(student, "all"), OpenModel.open(teacher, "all")
    right.checked()
    left.refuse_misfit()
    same = comparable(right, left)
    refuse_no_room(target, right, right.layout.rows, link="copy")
    loaded = load_model(right.directory, accelerator.device)
    freeze(loaded.model, accelerator.mixed_precision)
    names = add_lora(loaded.model, options.lora, lora_layers(loaded.model, options.lora, right))
    course = Course(options, loaded, texts[1:])
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings(), silent():
        warnings.simplefilter("ignore", FutureWarning)  # what TRL passes to transformers
        prompts = Prompts.of(loaded, without_weights(left), texts[0], options)
        trainer_of(loaded, left, same, prompts, options, course, progress, Path(work)).train()
    course.end()
    course.put(course.best)
    trained = Trained(
        right, left, torch.zeros(0, dtype=torch.int64), {}, updates_of(loaded.model, names), options, course.report,
        texts[1], kept_manifest(right), run_checks, "distil",
    )  # fmt: skip
    write_trained(target, trained, overwrite)
    course.report.out = target
    return course.report
