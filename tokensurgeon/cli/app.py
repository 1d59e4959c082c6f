"""Group the commands; ``transplant`` is what runs when no command is named."""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tokensurgeon.cli import (
    adapter,
    adapters,
    align,
    check,
    compare,
    dam,
    distil,
    draft,
    draft_bench,
    evaluate,
    export,
    extend,
    fisher,
    heal,
    merge,
    resize,
    revert,
    run,
    transplant,
    trim,
    verify,
)
from tokensurgeon.cli.memory import keep_freed_memory

__all__ = ["app", "main"]


class _DefaultToTransplant(TyperGroup):
    """``tokensurgeon BASE DONOR`` means ``tokensurgeon transplant BASE DONOR``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version", "--install-completion", "--show-completion", *self.commands}
        if args and args[0] not in own:
            args = ["transplant", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultToTransplant,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("transplant")(transplant.command)
app.command("align")(align.command)
app.command("compare")(compare.command)
app.command("evaluate")(evaluate.command)
app.command("verify")(verify.command)
app.command("revert")(revert.command)
app.command("adapter")(adapter.command)
app.add_typer(adapters.app, name="adapters")
app.command("heal")(heal.command)
app.command("distil")(distil.command)
app.command("trim")(trim.command)
app.command("merge")(merge.command)
app.command("fisher")(fisher.command)
app.command("dam")(dam.command)
app.command("check")(check.command)
app.command("export")(export.command)
app.command("draft")(draft.command)
app.command("draft-bench")(draft_bench.command)
app.command("extend")(extend.command)
app.command("resize")(resize.command)
app.command("run")(run.command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("tokensurgeon"))
        raise typer.Exit


@app.callback()
def _group(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Give a language model another tokenizer without training it, and know what that cost.

    [bold]tokensurgeon BASE DONOR[/bold] writes a model with BASE's body and DONOR's tokenizer; it is
    short for [bold]tokensurgeon transplant BASE DONOR[/bold]. BASE and DONOR are model directories,
    .gguf files, or hub ids (org/name, org/name@revision).
    """


def main() -> None:
    """Entry point."""
    gc.set_threshold(
        100_000, 20, 100
    )  # vocabularies are of millions of objects that stay: to look for others takes long
    keep_freed_memory()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes that libraries start import nothing from where we are
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter is no reason to fail after the work
            stream.reconfigure(errors="backslashreplace")
    app()
