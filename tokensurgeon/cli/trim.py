"""``tokensurgeon trim MODEL --text FILE --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar


def command(
    model: o.Model,
    out: o.Out,
    text: Annotated[
        list[Path], typer.Option("--text", metavar="FILE", help="Text whose tokens are kept (repeatable).")
    ],
    size: Annotated[
        int | None, typer.Option("--size", help="Fill up to this many tokens with those of lowest id.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="FILE", help="Tokens or texts to keep as well, one per line.")
    ] = None,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Drop the tokens that a text does not need.

    The text is encoded exactly as before, every other text still can be, and the rows that stay are bit-identical.
    Special tokens stay. [bold]tokensurgeon revert[/bold] puts the others back.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.surgery.trim import trim

        with progress_bar(quiet or json_out) as tell:
            report = trim(model, list(text), out, size=size, keep=keep, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({"out": str(report.out), **report.content})
        elif not quiet:
            print_output(
                report.out,
                f": {report.after:,} of {report.before:,} tokens ({report.needed:,} needed), "
                f"{report.parameters_saved / 1e6:,.1f} million parameters fewer",
            )
