"""``tokensurgeon dam MODEL MODEL … --text FILE --text FILE … --out C.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL …", help="The models, as the recipe lists them.")],
    text: Annotated[
        list[Path],
        typer.Option("--text", metavar="FILE", help="Once for each model, in their order: text it was tuned on."),
    ],
    out: o.OutFile,
    steps: Annotated[int, typer.Option("--steps", help="Updates; each reads 1 kB of every text.")] = 60,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="It falls to zero over the steps.")] = 0.001,
    seed: Annotated[int, typer.Option("--seed", help="For the order of the text.")] = 0,
    device: o.Device = "cpu",
    overwrite: o.OverwriteFile = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train the coefficients of a DAM merge: one per model, tensor and column.

    The merged model learns to give each model's distributions on that one's text. Give the file to the recipe:
    [bold]merge_method: dam[/bold], [bold]parameters: {coefficients: C.safetensors}[/bold], and the models in the same
    order. All models are held in memory, and must share a tokenizer.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.estimate.dam import train_dam
        from tokensurgeon.merging.estimate.dam_training import DamOptions

        options = DamOptions(steps=steps, learning_rate=learning_rate, seed=seed)
        with progress_bar(quiet or json_out) as tell:
            report = train_dam(models, list(text), out, options, device=device, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json(
                {
                    "out": str(report.out),
                    "models": list(report.models),
                    "steps": report.steps,
                    "divergence": {"before": report.before, "after": report.after},
                }
            )
        elif not quiet:
            print_output(
                report.out,
                f": divergence from the {len(models)} models {report.before:.4f} at the "
                f"beginning, {report.after:.4f} at the end ({report.steps} steps)",
            )
