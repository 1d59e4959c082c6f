"""``tokensurgeon check MODEL --for TOOL``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded


def command(
    model: o.Model,
    tool: Annotated[str, typer.Option("--for", metavar="TOOL", help="llama.cpp, vllm, transformers, mergekit or trl.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="TARGET",
            help="The model that MODEL is to draft for (llama.cpp, vllm, transformers), be merged with (mergekit) or "
            "learn from (trl).",
        ),
    ] = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Try every rule that another tool has for a model, before that tool does.

    Each rule passes or fails, with what to do and where the tool says so. Exits with 0 if all pass, with 1 if some
    fail, with 2 if MODEL or TARGET cannot be read.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_rules
        from tokensurgeon.readiness import check

        rules = check(model, tool, target)
        if json_out:
            emit_json({"for": tool, "with": target, "rules": [asdict(rule) for rule in rules]})
        elif not quiet:
            print_rules(console(), rules)
        if not all(rule.ok for rule in rules):
            raise typer.Exit(1)
