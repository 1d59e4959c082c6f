"""``tokensurgeon run PIPELINE --out DIR``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output
from tokensurgeon.errors import InputError

if TYPE_CHECKING:
    from tokensurgeon.pipelines import Done, Stage

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


def command(
    context: typer.Context,
    pipeline: Annotated[
        str, typer.Argument(metavar="PIPELINE", help="A YAML file, or the name of a recipe that comes with this.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Directory that gets an output of each stage.")
    ],
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An input of the pipeline. Repeatable."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that were made of other inputs or options.")
    ] = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Run several commands from one file, each on what those before it made.

    A stage is [bold]transplant, extend, trim, heal, distil, merge, evaluate[/bold] or [bold]export[/bold] with the
    options of that command, and gives what the command gives. One whose inputs, options and code are what its output
    was made of is not run again, so that a run that was interrupted goes on. An evaluation may have gates: what
    general text loses at most, for example. Where one is not kept to, no later stage is run.

    Recipes that come with this: [bold]domain, long-to-short, balanced, fusechat, distil[/bold]. Each says at its
    beginning what it needs.
    """
    with guarded(
        debug=debug, quiet=quiet or json_out, interrupted="the same command goes on behind the last stage that is whole"
    ):
        from tokensurgeon.cli.stages import STAGES, StageCommand, StageError
        from tokensurgeon.pipelines import read_pipeline, run_pipeline

        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise InputError("a pipeline runs in one process. Start it without torchrun, or its stages one by one")
        parent: Any = context.parent
        output = [name for name, wanted in (("--quiet", quiet or json_out), ("--debug", debug)) if wanted]
        commands = {name: StageCommand(name, parent.command.commands[name], output) for name in STAGES}
        read, name = read_pipeline(pipeline, _values(given), list(STAGES)), ""

        def told(number: int, count: int, stage: Stage, kept: bool) -> None:
            nonlocal name
            name = stage.name
            if not (quiet or json_out):
                state = "is there already" if kept else stage.command
                typer.echo(f"stage {number} of {count}, {stage.name}: {state}", err=True)

        try:
            done = run_pipeline(read, out, commands, overwrite=overwrite, told=told)
        except StageError as failed:
            typer.echo(f"stage {name} failed; mended, the same command goes on there", err=True)
            raise typer.Exit(failed.code) from None
        if json_out:
            emit_json({"out": str(out), "stages": [_plain(one) for one in done]})
        elif not quiet:
            for one in done:
                _show(one)
            print_output(out, f" is ready: {len(done)} stages, {sum(one.kept for one in done)} of them there already")


def _values(given: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` strings to a mapping; plain decimal numbers, ``true`` and ``false`` to what they say."""
    found: dict[str, Any] = {}
    for entry in given or []:
        name, sign, value = entry.partition("=")
        if not (name and sign and value):
            raise InputError(f"--set {entry!r} must look like NAME=VALUE")
        plain = value in ("true", "false") or _NUMBER.fullmatch(value)
        found[name] = json.loads(value) if plain else value
    return found


def _plain(done: Done) -> dict[str, Any]:
    return {
        "name": done.name, "command": done.command, "out": str(done.out), "kept": done.kept, "gates": list(done.gates),
        "figures": dict(done.figures),
    }  # fmt: skip


def _show(done: Done) -> None:
    """What an evaluation found, and how its gates were kept to."""
    from tokensurgeon.cli.tables import print_evaluation

    if done.figures:
        console().print(f"stage {done.name}", markup=False)
        print_evaluation(console(), dict(done.figures))
    for gate in done.gates:
        console().print(f"  gate: {gate}", markup=False)
