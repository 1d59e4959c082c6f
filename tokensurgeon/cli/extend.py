"""``tokensurgeon extend MODEL (--tokens FILE | --text FILE --add N | --special LITERAL) --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output, progress_bar


def command(
    model: o.Model,
    out: o.Out,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            metavar="FILE",
            help="New tokens, one per line. A space at the beginning counts: most words come after one.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Text to learn tokens from, a tenth held out; with --tokens, text to measure on. Repeatable.",
        ),
    ] = None,
    add: Annotated[int | None, typer.Option("--add", metavar="N", help="Tokens to learn from the text.")] = None,
    special: Annotated[
        list[str] | None,
        typer.Option(
            "--special",
            metavar="'LITERAL[=WORDS]'",
            help="New special token, with the mean of the rows of WORDS; without words the donor's row, or the mean of "
            "the model's own control rows. Repeatable.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help=f"How new rows are made: {o.WITHOUT_DONOR}; with --donor {o.BY_DONOR}.  "
            "[default: subtoken, or omp with --donor]",
        ),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option("--donor", metavar="DONOR", help="A model that has the new tokens; those it lacks: subtoken."),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", "-k", help="Anchors per new token, for methods that take it.")] = None,
    method_option: o.MethodOption = None,
    seed: Annotated[int, typer.Option(help="For method normal, which draws.")] = 0,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Add tokens that a text would be shorter with, or given ones.

    They are real tokens. With BPE they are merges after all old ones: a text is first cut as before, and then its
    tokens are joined. Unigram (scores) and WordPiece (entries) may cut a text anew. Rows of old tokens stay bit for
    bit. [bold]tokensurgeon revert[/bold] takes the new ones away.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.report.card import outliers_in_words
        from tokensurgeon.surgery.extend import extend
        from tokensurgeon.surgery.options import ExtendOptions

        options = ExtendOptions(
            method=method or "",
            k=k,
            method_options=o.parse_pairs(method_option),
            text=tuple(map(str, text or ())),
            seed=seed,
            tokens=None if tokens is None else str(tokens),
            add=add,
            donor=donor,
            special=o.parse_special(special),
        )
        with progress_bar(quiet or json_out) as tell:
            report = extend(model, out, options, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({"out": str(report.out), **report.content})
        elif not quiet:
            before, after = report.tokens_per_byte
            gain = (
                f"; {after:.4f} tokens per byte of held-out text, {before:.4f} before ({1 - after / before:.1%} fewer)"
                if tokens is not None or add is not None
                else ""
            )
            print_output(report.out, f": {report.added:,} tokens more, {report.rows:,} rows{gain}")
            for sentence in outliers_in_words(report.content["outliers"]):
                console().print(f"! {sentence}", markup=False)
            for token in report.content["extended"]["special"]:
                console().print(f"{token['token']} is {token['id']}; row: {token['row']}", markup=False)
