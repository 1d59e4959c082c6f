"""``tokensurgeon distil STUDENT --teacher TEACHER --text FILE --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import guarded, progress_bar
from tokensurgeon.cli.memory import give_back_freed_memory
from tokensurgeon.cli.training import is_first_process, tell_of_training
from tokensurgeon.progress import Stage

if TYPE_CHECKING:
    from tokensurgeon.healing import HealReport


def command(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="Model to train: directory, .gguf file or hub id.")],
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="TEACHER", help="Model to learn from, of any size and tokenizer.")
    ],
    text: Annotated[list[Path], typer.Option("--text", metavar="FILE", help="Text to learn on. Repeatable.")],
    out: o.Out,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Time to train for, without the teacher's reading.")
    ] = 10.0,
    steps: o.Steps = None,
    text_weight: o.TextWeights = None,
    teacher_weight: Annotated[
        float,
        typer.Option(
            "--teacher-weight",
            metavar="SHARE",
            help="Share of the loss that is the teacher's; the rest is the text's own next token, which also teaches "
            "what the teacher leaves open. 0 trains without a teacher, to compare with.",
        ),
    ] = 0.5,
    top: Annotated[
        int, typer.Option("--top", metavar="N", help="The teacher's likeliest tokens that are kept at each position.")
    ] = 64,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="A vLLM (started with --max-logprobs N) or llama-server that runs the teacher: of TEACHER only "
            "tokenizer and config are read.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="DIR",
            help="Keep what the teacher says there: the next run, or another student, does not need the teacher.",
        ),
    ] = None,
    on_policy: Annotated[
        float | None,
        typer.Option(
            "--on-policy",
            metavar="SHARE",
            help="Let the student go on with this share of the pieces itself, and the teacher read that, by TRL's "
            "trainers (pip install 'tokensurgeon\\[trl]'). Low-rank updates alone; both models are in memory at once.",
        ),
    ] = None,
    lora: o.Rank = 16,
    whole: Annotated[bool, typer.Option("--whole", help="Train the body itself, not updates of low rank.")] = False,
    batch: o.Batch = 1,
    learning_rate: o.RowsRate = 0.004,
    lora_learning_rate: o.UpdatesRate = 5e-4,
    body_learning_rate: Annotated[
        float, typer.Option("--body-learning-rate", help="Of the body, with --whole.")
    ] = 5e-5,
    schedule: o.Schedule = "linear",
    decay: o.Decay = 0.2,
    average: o.Average = None,
    seed: o.Order = 0,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a model on what another one believes of text.

    A student with the teacher's tokenizer learns its next-token distributions, position by position: make one by
    [bold]tokensurgeon STUDENT TEACHER[/bold]. A student with a tokenizer of its own learns what the
    teacher's distributions say of its own next token, and needs no transplant.

    The teacher reads all of the text first, once; then it leaves the memory. Some of the text is held out and
    scored; the best state is written. What is interrupted goes on where it was when the same command runs again.

    On several GPUs: [bold]accelerate launch -m tokensurgeon distil …[/bold]
    """
    again = "the same command goes on from the last saved state"
    kept = again if on_policy is None else "with --on-policy nothing is kept, and the same command begins anew"
    with guarded(debug=debug, quiet=quiet or json_out, interrupted=kept):
        from tokensurgeon.distilling import DistilOptions, distil

        give_back_freed_memory()
        options = DistilOptions(
            text=tuple(str(path) for path in text),
            steps=steps,
            minutes=minutes,
            lora=lora,
            batch=batch,
            learning_rate=learning_rate,
            lora_learning_rate=lora_learning_rate,
            seed=seed,
            text_weights=tuple(text_weight or ()),
            schedule=schedule,
            decay=decay,
            average=average,
            teacher_weight=teacher_weight,
            top=top,
            whole=whole,
            body_learning_rate=body_learning_rate,
            on_policy=on_policy,
        )
        with progress_bar(quiet or json_out or not is_first_process()) as tell:

            def progress(share: float, report: HealReport, losses: dict[str, float]) -> None:
                told = f"{losses['teacher']:.3f} from the teacher, held out {report.curve[-1]['held_out']:.4f}"
                tell(Stage.DISTIL, int(100 * share), 100, told)

            found = distil(
                student, teacher, out, options, server=server, cache=cache, overwrite=overwrite, progress=progress,
                reading=tell,
            )  # fmt: skip
        more: dict[str, float] = {}
        told = "; the teacher read along"
        if on_policy is None:
            more = {"pieces": found.pieces, "read": found.read, "reading_s": found.reading_s}
            told = f"; the teacher read {found.read:,} of {found.pieces:,} pieces before, in {found.reading_s / 60:.1f}"
        tell_of_training(found.training, told, more, json_out=json_out, quiet=quiet)
