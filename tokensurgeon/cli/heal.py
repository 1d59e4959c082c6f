"""``tokensurgeon heal MODEL --teacher BASE --out DIR``."""

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
    model: o.Transplanted,
    teacher: Annotated[str, typer.Option("--teacher", metavar="BASE", help="The model that it was made from.")],
    out: o.Out,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", metavar="FILE", help="Text to train on (repeatable). Default: what Python carries."),
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="Time to train for.")] = 10.0,
    steps: o.Steps = None,
    text_weight: o.TextWeights = None,
    own_text: Annotated[
        float | None,
        typer.Option(
            "--own-text",
            metavar="SHARE",
            help="Share of the pieces that the base writes itself before, in up to 0.4 x SHARE of --minutes: text of "
            "all kinds that it knows, so that other kinds than the given one heal too. 0 trains on the given text "
            "alone.  [default: 0.5; 0 with --diloco]",
        ),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", metavar="new|all", help="Rows that may change, of those that the text uses.")
    ] = "new",
    lora: o.Rank = 16,
    batch: o.Batch = 1,
    learning_rate: o.RowsRate = 0.004,
    lora_learning_rate: o.UpdatesRate = 5e-4,
    schedule: o.Schedule = "linear",
    decay: o.Decay = 0.2,
    average: o.Average = None,
    diloco: Annotated[
        int | None,
        typer.Option(
            "--diloco",
            metavar="H",
            help="Train in groups that may come and go: each runs this command with TORCHFT_LIGHTHOUSE and a number of "
            "its own as REPLICA_GROUP_ID, and after every H steps they meet. Goes by --steps.",
        ),
    ] = None,
    seed: o.Order = 0,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a transplanted model a little: its base, in its own tokenization, is the teacher.

    Rows of new tokens change, and low-rank updates of the body; with [bold]--lora 0[/bold] the body stays as it is.
    Some of the text is held out and scored; the best state is written, never one worse than the
    start. What is interrupted goes on where it was when the same command runs again.

    Text of another kind is scored as well: what only the former gains is knowledge of the text, not healing.

    On several GPUs: [bold]accelerate launch -m tokensurgeon heal …[/bold]; on several CPUs torchrun does it, with
    ACCELERATE_USE_CPU=true.
    """
    kept = "the same command goes on from the last saved state"
    kept = kept if diloco is None else "the same command joins the other groups again, while they train"
    with guarded(debug=debug, quiet=quiet or json_out, interrupted=kept):
        from tokensurgeon.healing import HealOptions, heal

        give_back_freed_memory()
        options = HealOptions(
            text=tuple(str(path) for path in text or ()),
            steps=steps,
            minutes=minutes,
            rows=rows,
            lora=lora,
            batch=batch,
            learning_rate=learning_rate,
            lora_learning_rate=lora_learning_rate,
            seed=seed,
            text_weights=tuple(text_weight or ()),
            own_text=own_text,
            schedule=schedule,
            decay=decay,
            average=average,
            diloco=diloco,
        )
        with progress_bar(quiet or json_out or not is_first_process()) as tell:

            def progress(share: float, report: HealReport, losses: dict[str, float]) -> None:
                tell(Stage.HEAL, int(100 * share), 100, _figures(report, losses))

            report = heal(model, str(teacher), out, options, overwrite=overwrite, progress=progress, reading=tell)
        tell_of_training(report, _more(report), json_out=json_out, quiet=quiet)


def _more(report: HealReport) -> str:
    own = ""
    if report.own:
        own = "; the base wrote {bytes:,.0f} bytes of its own text in {seconds:.0f} s".format(**report.own)
    if not report.sent:
        return own
    return own + "; {bytes:,.0f} bytes sent for a token, {at_every_step:,.0f} had it met others at every step".format(
        **report.sent
    )


def _figures(report: HealReport, losses: dict[str, float]) -> str:
    speed = report.tokens / max(report.seconds, 1e-9)
    return (
        f"loss {losses['loss']:.3f}, {speed:,.0f} tokens/s, held out {report.curve[-1]['held_out']:.4f} "
        f"(best {report.best['held_out']:.4f})"
    )
