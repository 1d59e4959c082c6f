"""``tokensurgeon revert MODEL --base BASE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output, progress_bar


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A transplanted model, perhaps trained since.")],
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The model that it was made from.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Output directory.")],
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Give a transplanted model its base's tokenizer again.

    Rows that the transplant copied stay the model's, bit for bit, with what they may have learnt since; rows that
    it dropped come from the base. What was never trained is the base again, to the byte.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_checks
        from tokensurgeon.surgery.revert import revert

        with progress_bar(quiet or json_out) as tell:
            checks = revert(model, base, out, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({"out": str(out), "verified": {check.name: check.detail for check in checks}})
        elif not quiet:
            print_checks(console(), checks)
            print_output(out, " is ready")
