"""``tokensurgeon merge RECIPE --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output, progress_bar


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A mergekit YAML.")],
    out: o.Out,
    seed: Annotated[int, typer.Option("--seed", help="For merge methods that draw, such as DARE.")] = 0,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Merge models whose tokenizers differ.

    RECIPE is an ordinary mergekit YAML. Every model whose ids are not those of the base (or the first model) is
    transplanted first, and kept in a cache; then mergekit merges. One more table in it may say how:

    [bold]tokensurgeon:[/bold]
      [bold]tokenizer: MODEL[/bold] - whose ids the merge has; it need not be merged itself
      [bold]embeddings: first[/bold] - whose row a token gets that not all models know: that of the first which does,
      of the base ([bold]base[/bold]), or the mean ([bold]average[/bold])
      [bold]method: omp[/bold] - how rows are made; also k, method_options, map, calibrate, text and others

    mergekit's [bold]tokenizer: {source: union, tokens: ...}[/bold] gives the first tokenizer the tokens of all, and
    names rows.

    configs/merge/ has recipes to begin with. mergekit comes with the extra "merge" of tokensurgeon.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging import merge
        from tokensurgeon.report.merged import merge_summary

        with progress_bar(quiet or json_out) as tell:
            report = merge(recipe, out, seed=seed, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({"out": str(report.out), **report.content})
        elif not quiet:
            for line in merge_summary(report.content):
                console().print(line, markup=False)
            print_output(
                report.out,
                f" is ready: {len(report.checks)} invariants verified, {report.content['seconds']:.0f} s in all",
            )
