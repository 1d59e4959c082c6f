"""``tokensurgeon compare BASE DONOR DONOR…``."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, progress_bar


def command(
    base: o.Base,
    donors: Annotated[list[str], typer.Argument(metavar="DONOR...", help="Models that could give the tokenizer.")],
    text: o.Texts = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compare tokenizers: which of several would cost BASE least on a text.

    Needs tokenizers only, no weights. The loss is predicted from what other pairs lost; a transplant measures it.
    """
    with guarded(debug=debug, quiet=quiet or json_out, models=False):
        from tokensurgeon.cli.tables import print_comparison
        from tokensurgeon.surgery.compare import compare

        with progress_bar(quiet or json_out) as tell:
            found = compare(base, donors, text or [], tell)
        if json_out:
            emit_json({"base": base, "donors": found})
        elif not quiet:
            print_comparison(console(), base, found)
