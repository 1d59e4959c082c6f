"""Set up TRL's trainers: for a student that reads its teacher's tokens, and for one that has its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.gold import GOLDConfig, GOLDTrainer
from trl.experimental.gold.gold_trainer import build_teacher_inputs_from_texts
from trl.experimental.utils import is_byte_level_tokenizer

from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.distilling.options import DistilOptions
from tokensurgeon.distilling.prompts import Prompts
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.context import context_of
from tokensurgeon.evaluation.loading import LoadedModel, load_model
from tokensurgeon.healing.course import Course, HealProgress, HealReport
from tokensurgeon.healing.schedule import schedule_of

__all__ = ["comparable", "silent", "trainer_of"]

_WRITTEN = 128
_NEVER = 10**9


def comparable(student: OpenModel, teacher: OpenModel) -> bool:
    """Whether both have the same ids.

    Raises:
        InputError: If TRL cannot compare what they say.
    """
    if student.ids == teacher.ids:
        if (rows := student.layout.rows) > (most := teacher.layout.rows):
            raise InputError(
                f"--on-policy: the student has {rows} rows, and GKDTrainer compares them all with the teacher's {most} "
                f"rows. Cut them first: tokensurgeon resize {student.name} --rows {most}"
            )
        return True
    if not all(is_byte_level_tokenizer(side.tokenizer.tokenizer) for side in (student, teacher)):
        raise InputError(
            "--on-policy: of different tokenizers GOLDTrainer takes byte-level ones alone. Give the student the "
            f"teacher's tokenizer first: tokensurgeon {student.name} {teacher.name}"
        )
    return False


def trainer_of(
    student: LoadedModel,
    teacher: OpenModel,
    same: bool,
    prompts: Prompts,
    options: DistilOptions,
    course: Course,
    progress: HealProgress | None,
    work: Path,
) -> Any:
    """The trainer of TRL that trains what of a student requires gradients.

    Args:
        student: Its body is in bfloat16 where that is what is computed in.
        teacher: Is loaded.
        same: Whether its ids are the student's.
        prompts: Of both.
        options: See `DistilOptions`.
        course: Is kept up to date.
        progress: Called with (share done, report so far, last losses).
        work: Directory that TRL may write into.
    """
    tokenizer, device = student.tokenizer, student.model.device
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    master = load_model(teacher.directory, device, fast=True).model
    kind: Any = _Gkd if same else _Gold
    # what GOLDTrainer's teacher reads has another length, and is cut to its context there
    contexts = [context for side in (student.model, master)[: 1 + same] if (context := context_of(side)) is not None]
    written = min([_WRITTEN, *(context - prompts.longest for context in contexts)])
    own: dict[str, Any] = {"max_new_tokens": written}
    if same:
        # of a teacher that is padded further GKDTrainer would say that it has another vocabulary
        master.resize_token_embeddings(student.model.config.get_text_config().vocab_size)
    else:
        own = {
            "max_completion_length": written, "use_uld_loss": True, "uld_use_hybrid_loss": True,
            "uld_token_merge_strategy": "bayesian", "teacher_tokenizer_name_or_path": str(teacher.directory),
        }  # fmt: skip
    args = (GKDConfig if same else GOLDConfig)(
        output_dir=str(work), max_steps=options.steps or _NEVER, per_device_train_batch_size=1,
        gradient_accumulation_steps=options.batch, lmbda=options.on_policy, seed=options.seed,
        bf16=student.model.dtype == torch.bfloat16,
        use_cpu=device.type == "cpu", max_length=None, max_grad_norm=1.0, gradient_checkpointing=False,
        save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True, **own,
    )  # fmt: skip
    args._n_gpu = min(args.n_gpu, 1)  # transformers would put the student alone on all of them
    # ours, as their rates can go by the time
    optimizer = torch.optim.AdamW(course.parameters().values(), options.body_rate, betas=(0.9, 0.95), weight_decay=0.0)
    factor = schedule_of(options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(course.share(step)))
    trainer = kind(
        student.model, master, args, train_dataset=Dataset.from_list(prompts.rows), processing_class=tokenizer,
        optimizers=(optimizer, scheduler), callbacks=[_Tells(course, progress)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.report = course.report
    # transformers would count tokens of the text, and divide by them what is said of those that the student wrote
    # instead: each piece's loss is the mean of its own, and an update's that of its pieces
    trainer.model_accepts_loss_kwargs = False
    if not same:
        trainer.teacher_context = context_of(master) or math.inf
        if student.prefix is not None:
            trainer.begin_with(student.prefix)
    trainer.train_dataset = trainer.train_dataset.select(prompts.order)
    return trainer


@contextmanager
def silent() -> Iterator[None]:
    """Let datasets show no progress of its own."""
    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


class _Counting:
    """Count the tokens that a trainer's student reads."""

    report: HealReport

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        self.report.tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *more, **named)  # type: ignore[misc]


class _Gkd(_Counting, GKDTrainer):  # type: ignore[misc]
    """As it is."""


class _Gold(_Counting, GOLDTrainer):  # type: ignore[misc]
    """Put before text what the student's texts begin with, which GOLDTrainer leaves out; the teacher has its own."""

    heading = ""
    teacher_context = math.inf
    train_dataset: Any

    def begin_with(self, token: int) -> None:
        front = {"input_ids": token, "attention_mask": 1, "byte_offsets": [0, 0], "completion_mask": 0}
        self.heading = self.processing_class.decode([token])
        self.train_dataset = self.train_dataset.map(
            lambda row: {name: [value, *row[name]] for name, value in front.items()}
        )

    def generate_on_policy_outputs(self, *given: Any) -> tuple[Any, ...]:
        *found, prompts, written = super().generate_on_policy_outputs(*given)
        return *found, [prompt.removeprefix(self.heading) for prompt in prompts], written

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        return super().compute_loss(model, self._readable(inputs), *more, **named)

    def _readable(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A piece without the padding that the others of its update put before it, as far as the teacher can read."""
        prompts, texts = inputs["original_prompt_text"], inputs["original_completion_text"]
        kept = inputs["attention_mask"][0].nonzero()[:, 0]
        while texts[0] and self._length(prompts, texts) > self.teacher_context:
            kept = kept[:-1]
            end = int(inputs["byte_offsets"][0, kept[-1], 1])
            texts = [texts[0].encode()[:end].decode(errors="ignore")]
        cut = {name: inputs[name][:, kept] for name in ("input_ids", "attention_mask", "labels", "byte_offsets")}
        return inputs | cut | {"original_completion_text": texts}

    def _length(self, prompts: list[str], texts: list[str]) -> int:
        """Tokens that the teacher reads for them."""
        return len(build_teacher_inputs_from_texts(self.teacher_tokenizer, prompts, texts)[0][0])


class _Tells(TrainerCallback):  # type: ignore[misc]
    """Keep a course up to date with a trainer, and stop that at the end."""

    def __init__(self, course: Course, progress: HealProgress | None) -> None:
        self.course, self.progress, self.share = course, progress, 0.0

    def on_train_begin(self, *_given: Any, **_: Any) -> None:
        self.course.begin()

    def on_step_begin(self, *_given: Any, **_: Any) -> None:
        self.share = self.course.share(self.course.report.steps)

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        self.course.report.steps += 1
        control.should_training_stop = self.course.share(self.course.report.steps) >= 1

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "loss" not in logs:
            return
        losses = {"teacher": float(logs["loss"])}
        self.course.stepped(losses)
        if self.progress is not None:
            self.progress(self.share, self.course.report, losses)
        if self.course.due(self.share):
            self.course.evaluate()
