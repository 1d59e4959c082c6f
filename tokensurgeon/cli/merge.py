"""``tokensurgeon merge RECIPE --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output, progress_bar


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A mergekit YAML.")],
    out: o.Out,
    seed: Annotated[int, typer.Option("--seed", help="For a search, and methods that draw, such as DARE.")] = 0,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="Find the numbers for which RECIPE has {search: [low, high], start: x}, by text; OUT.yaml gets them.",
        ),
    ] = False,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="UTF-8 text to search by, one file a skill; its first half is searched on, its second half reported "
            "on. Repeatable.  [default: Python's own documentation]",
        ),
    ] = None,
    items: Annotated[
        list[Path] | None,
        typer.Option(
            "--items",
            metavar="FILE",
            help="Questions to search by, as a text is: JSONL with context, choices and answer (from 0). What counts "
            "is the likelihood of the right one among the choices. Repeatable. Keep the test set of a benchmark out.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            metavar="regret|mean|worst",
            help="What a search makes small. regret: by what share bits per byte exceed those of the model that is "
            "best on a text, the mean over texts; worst: the largest share; mean: bits per byte.  [default: regret]",
        ),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", metavar="N", help="Merges that a search tries.  [default: 100]")
    ] = None,
    text_bytes: Annotated[
        int | None, typer.Option("--bytes", metavar="N", help="Of each text to search by.  [default: 65536]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes that try merges at the same time; each holds a merge in memory.  [default: 1]",
        ),
    ] = None,
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

    Any number under [bold]parameters[/bold] may be [bold]{search: [0, 1], start: 0.5}[/bold] with --search. A list of
    such numbers goes from the first layers to the last, and a YAML alias is the same number again. A search that was
    interrupted goes on where it was.

    configs/merge/ has recipes to begin with. mergekit comes with the extra "merge" of tokensurgeon.
    """
    kept = "what was measured is kept; the same command goes on from there" if search else "nothing was written"
    with guarded(debug=debug, quiet=quiet or json_out, interrupted=kept):
        from tokensurgeon.errors import InputError
        from tokensurgeon.merging import merge
        from tokensurgeon.merging.search.run import SearchOptions, search_recipe
        from tokensurgeon.progress import Stage
        from tokensurgeon.report.merged import merge_summary

        given: dict[str, Any] = {
            "objective": objective,
            "evaluations": evaluations,
            "n_bytes": text_bytes,
            "workers": workers,
        }
        asked = {name: value for name, value in given.items() if value is not None}
        files = {"text": text, "items": items}
        asked |= {name: tuple(map(str, paths)) for name, paths in files.items() if paths}
        if asked and not search:
            raise InputError(
                "--text, --items, --objective, --evaluations, --bytes and --workers are for a search. Give --search"
            )
        with progress_bar(quiet or json_out) as tell:
            if search:
                options = SearchOptions(seed=seed, **asked)
                report = search_recipe(
                    recipe,
                    out,
                    options,
                    overwrite=overwrite,
                    progress=tell,
                    searching=lambda done, total, best: tell(
                        Stage.SEARCH, done, total, f"{options.objective} {best:.4f}"
                    ),
                )
            else:
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
