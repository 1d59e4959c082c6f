"""``tokensurgeon adapter ADAPTER MODEL --out DIR``."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A PEFT adapter of the base: directory or hub id.")],
    model: o.Transplanted,
    out: o.Out,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Carry a LoRA adapter of the base over to the transplanted model.

    The body is the same, so that the adapter's weights are copied as they are, and its configuration names MODEL as its
    base. An adapter that changes the embedding or the LM head is refused: their rows are other ones now.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.surgery.adapter import carry_adapter

        modules = carry_adapter(adapter, model, out, overwrite=overwrite)
        if json_out:
            emit_json({"out": str(out), "modules": modules})
        elif not quiet:
            print_output(out, f" is ready; it changes {len(modules)} modules of {model}")
