"""``tokensurgeon fisher MODEL --text FILE --out F.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the merge: directory, .gguf file, hub id.")],
    text: Annotated[
        list[Path], typer.Option("--text", metavar="FILE", help="Text of the kind that it was tuned on (repeatable).")
    ],
    out: o.OutFile,
    pieces: Annotated[int, typer.Option("--pieces", help="Pieces of 1 kB to read, from all over the text.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="For the labels that are drawn.")] = 0,
    device: o.Device = "cpu",
    overwrite: o.OverwriteFile = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Estimate how sure a model is of each of its parameters, for a Fisher-weighted merge.

    Give the file to the recipe, in the model's own parameters: [bold]merge_method: fisher[/bold], and under the model
    [bold]parameters: {fisher: F.safetensors}[/bold]. It is as large as the model in float32.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.estimate.fisher import estimate_fisher

        with progress_bar(quiet or json_out) as tell:
            report = estimate_fisher(
                model, list(text), out, pieces=pieces, seed=seed, device=device, overwrite=overwrite, progress=tell
            )
        if json_out:
            emit_json(
                {
                    "out": str(report.out),
                    "pieces": report.pieces,
                    "tokens": report.tokens,
                    "parameters": report.parameters,
                    "mean": report.mean,
                }
            )
        elif not quiet:
            print_output(
                report.out, f": the Fisher information of {report.parameters:,} parameters on {report.tokens:,} tokens"
            )
