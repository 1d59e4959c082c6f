"""Let a student write, and a teacher say what it thinks of that, by TRL's trainers."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.distilling.course import Course
from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.errors import InputError, MissingDependencyError
from tokensurgeon.evaluation.loading import LoadedModel, computes_in_bfloat16, load_model, pick_device
from tokensurgeon.evaluation.texts import TextPieces
from tokensurgeon.healing.launch import freeze
from tokensurgeon.healing.loop import HealProgress, HealReport
from tokensurgeon.healing.lora import add_lora, updates_of
from tokensurgeon.healing.order import by_weight
from tokensurgeon.healing.schedule import schedule_of
from tokensurgeon.healing.texts import divide
from tokensurgeon.healing.write import Trained, kept_manifest, write_trained
from tokensurgeon.verification.running import Check, forward_checks, tokenizer_checks

__all__ = ["distil_on_policy"]

_PROMPT = 64
_WRITTEN = 128
_UPDATES = 2048
"""For which pieces of text are drawn where time counts and not steps; they come again behind that."""
_NEVER = 10**9


def distil_on_policy(
    student: str, teacher: str, target: Path, options: DistilOptions, overwrite: bool, progress: HealProgress | None
) -> HealReport:
    """Train low-rank updates of a student's body, in one process. What is interrupted begins anew.

    Prompts are beginnings of pieces of the text. In ``options.on_policy`` of all updates the student goes on from them
    itself; in the others the text does. With the teacher's tokenizer TRL's GKDTrainer compares whole distributions,
    with another one GOLDTrainer those of spans that both tokenizers end alike.

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
            warnings.simplefilter("ignore")  # that it may change, which is why our range of it ends
            import trl.experimental.gkd
            import trl.experimental.gold  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("trl", "trl", "--on-policy") from error
    from transformers import PrinterCallback, set_seed

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--on-policy trains in one process. Start it without accelerate launch or torchrun")
    texts = divide([Path(name) for name in options.text], options.piece, options.text_weights)
    right, left = OpenModel.open(student, "all"), OpenModel.open(teacher, "all")
    right.checked()
    left.refuse_misfit()
    same = _comparable(right, left)
    refuse_no_room(target, right, right.layout.rows, link="copy")
    device = pick_device("auto")
    loaded = load_model(right.directory, device)
    fast = computes_in_bfloat16(device)
    freeze(loaded.model, "bf16" if fast else "no")
    set_seed(options.seed)
    names = add_lora(loaded.model, options.lora or 1, right)
    course = Course(options, loaded, texts[1:], progress)
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what TRL passes to transformers
        trainer = _trainer(loaded, left, same, _rows(loaded, texts[0], options), options, course, Path(work), fast)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(course.callback())
        course.begin()
        trainer.train()
    course.end()
    body = updates_of(loaded.model, names)

    def checks(out: Path) -> list[Check]:
        told = Manifest.of_output(out)
        return [*tokenizer_checks(out, None, told), *forward_checks(out, told)]

    trained = Trained(
        right, left, torch.zeros(0, dtype=torch.int64), {}, body, options, course.report, texts[1],
        kept_manifest(right), checks, "distil",
    )  # fmt: skip
    write_trained(target, trained, overwrite)
    course.report.out = target
    return course.report


def _comparable(student: OpenModel, teacher: OpenModel) -> bool:
    """Whether both have the same tokenizer; otherwise GOLDTrainer must be able to compare them."""
    from trl.experimental.utils import is_byte_level_tokenizer

    wanted = f"Give the student the teacher's tokenizer first: tokensurgeon {student.name} {teacher.name}"
    if student.ids == teacher.ids:
        if student.layout.rows > teacher.layout.rows:
            rows = f"{student.layout.rows} rows, and the teacher {teacher.layout.rows}"
            raise InputError(f"--on-policy: the student has {rows}: GKDTrainer compares them all. {wanted}")
        return True
    if not all(is_byte_level_tokenizer(side.tokenizer.tokenizer) for side in (student, teacher)):
        raise InputError(f"--on-policy: of different tokenizers GOLDTrainer takes byte-level ones alone. {wanted}")
    return False


def _rows(student: LoadedModel, pieces: TextPieces, options: DistilOptions) -> list[dict[str, Any]]:
    """Pieces of text in their order, in the two forms that TRL's two trainers read."""
    order = by_weight(pieces.places[:, 0], options.text_weights, options.seed)
    rows = []
    for number in range((options.steps or _UPDATES) * options.batch):
        text = pieces[order(number)]
        cut = student.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = cut["input_ids"], [end for _, end in cut["offset_mapping"]]
        asked = min(_PROMPT, len(ids) // 2)
        if asked:
            begin = [] if student.prefix is None else [student.prefix]
            mask = [0] * (len(begin) + asked) + [1] * (len(ids) - asked)
            written = {"prompt": text[: ends[asked - 1]], "completion": text[ends[asked - 1] :]}
            rows.append(written | {"input_ids": [*begin, *ids], "completion_mask": mask})
    if not rows:
        raise InputError("--on-policy: no piece of the text has two tokens. Give more --text")
    return rows


def _trainer(
    student: LoadedModel,
    teacher: OpenModel,
    same: bool,
    rows: list[dict[str, Any]],
    options: DistilOptions,
    course: Course,
    work: Path,
    fast: bool,
) -> Any:
    """TRL's trainer for a student with the teacher's tokenizer, or with its own."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    class Counted(GKDTrainer if same else GOLDTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            course.report.tokens += int(inputs["attention_mask"].sum())
            return super().compute_loss(model, inputs, *more, **named)

    tokenizer, device = student.tokenizer, student.model.device
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    master = load_model(teacher.directory, device, fast=True).model
    own: dict[str, Any] = {"max_new_tokens": _WRITTEN}
    if same:
        # of a teacher that is padded further GKDTrainer would say that it has another vocabulary
        master.resize_token_embeddings(student.model.config.get_text_config().vocab_size)
    else:
        own = {
            "max_completion_length": _WRITTEN, "use_uld_loss": True, "uld_use_hybrid_loss": True,
            "uld_token_merge_strategy": "bayesian", "teacher_tokenizer_name_or_path": str(teacher.directory),
        }  # fmt: skip
    args = (GKDConfig if same else GOLDConfig)(
        output_dir=str(work), max_steps=options.steps or _NEVER, per_device_train_batch_size=options.batch,
        seed=options.seed, lmbda=options.on_policy, bf16=fast, use_cpu=device.type == "cpu", max_length=None,
        max_grad_norm=1.0, gradient_checkpointing=False, save_strategy="no", report_to=[], logging_steps=1,
        disable_tqdm=True, **own,
    )  # fmt: skip
    args._n_gpu = min(args.n_gpu, 1)  # transformers would put the student alone on all of them
    # ours, as their rates can go by the time
    optimizer = torch.optim.AdamW(course.parameters.values(), options.body_rate, betas=(0.9, 0.95), weight_decay=0.0)
    factor = schedule_of(options)
    return Counted(
        student.model, master, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(course.share(step)))),
    )  # fmt: skip
