"""``tokensurgeon check MODEL --for TOOL``, and ``tokensurgeon check A B … --for merge``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL …", help="Directory, .gguf file or hub id; several for merge.")
    ],
    tool: Annotated[
        str, typer.Option("--for", metavar="TOOL", help="llama.cpp, vllm, transformers, mergekit, trl, or merge.")
    ],
    target: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="TARGET",
            help="The model that MODEL is to draft for (llama.cpp, vllm, transformers), be merged with (mergekit) or "
            "learn from (trl).",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="For merge: what the models were trained from.")
    ] = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Try every rule that another tool has for a model, before that tool does.

    Each rule passes or fails, with what to do and where the tool says so. Exits with 0 if all pass, with 1 if some
    fail, with 2 if MODEL or TARGET cannot be read.

    [bold]--for merge[/bold] asks whether models will merge with each other: shapes, ids, whether they are of one base,
    how long and at what angles the changes are that they learnt, and whether one was locked against merging. Most of
    that only warns.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_rules
        from tokensurgeon.errors import InputError
        from tokensurgeon.readiness import check, check_merge

        if tool == "merge":
            if target is not None:
                raise InputError("--for merge takes all models as arguments; leave out --with")
            rules = check_merge(models, base)
        elif len(models) > 1 or base is not None:
            raise InputError(f"--for {tool} takes one model, and no --base. A second one goes behind --with")
        else:
            rules = check(models[0], tool, target)
        if json_out:
            told = {"models": models, "base": base} if tool == "merge" else {"with": target}
            emit_json({"for": tool, **told, "rules": [asdict(rule) for rule in rules]})
        elif not quiet:
            print_rules(console(), rules)
        if not all(rule.ok for rule in rules if rule.must):
            raise typer.Exit(1)
