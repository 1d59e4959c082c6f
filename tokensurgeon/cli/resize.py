"""``tokensurgeon resize MODEL --rows N --out DIR``."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar


def command(
    model: o.Model,
    out: o.Out,
    rows: Annotated[int | None, typer.Option("--rows", metavar="N", help="Rows of the output.")] = None,
    pad_to_multiple_of: Annotated[
        int | None,
        typer.Option("--pad-to-multiple-of", metavar="M", help="The tokenizer's tokens, rounded up to M."),
    ] = None,
    device: o.Device = "auto",
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Cut or pad the rows of embedding and LM head; the tokenizer stays.

    Rows that stay are bit-identical, new ones take no probability, and only rows that no token has are cut. Give one of
    [bold]--rows[/bold] and [bold]--pad-to-multiple-of[/bold].
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.surgery.resize import resize

        with progress_bar(quiet or json_out) as tell:
            report = resize(
                model,
                out,
                rows=rows,
                pad_to_multiple_of=pad_to_multiple_of,
                device=device,
                overwrite=overwrite,
                progress=tell,
            )
        if json_out:
            emit_json({"out": str(report.out), **report.content})
        elif not quiet:
            print_output(report.out, f": {report.after:,} rows, {report.before:,} before, for {report.tokens:,} ids")
