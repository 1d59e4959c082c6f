"""``tokensurgeon draft-bench DRAFT TARGET``."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, progress_bar


def command(
    draft: Annotated[str, typer.Argument(metavar="DRAFT", help="The draft model, with TARGET's tokenizer.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The model whose text is wanted.")],
    text: o.Texts = None,
    untouched: Annotated[
        str | None,
        typer.Option(
            "--untouched",
            metavar="BASE",
            help="What DRAFT was made from, to draft by universal assisted decoding, which re-encodes text.",
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts, from the beginnings of the texts in turn.")] = 8,
    prompt_bytes: Annotated[int, typer.Option(min=16, help="Bytes of text in each prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens that are generated after each.")] = 64,
    draft_tokens: Annotated[int, typer.Option(min=1, help="Tokens that DRAFT proposes at a time.")] = 5,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    device: o.Device = "cpu",
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure what a draft model gives: acceptance, accepted length, and time, greedy and sampling.

    TARGET generates without a draft, with DRAFT, and with BASE if it is given, by transformers' assisted generation.
    Wall-clock figures are of this machine; the acceptance rate is of the models.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_drafts
        from tokensurgeon.evaluation.drafts import DraftOptions, bench_drafts

        how = DraftOptions(prompts, prompt_bytes, new_tokens, draft_tokens, seed=seed)
        with progress_bar(quiet or json_out) as tell:
            found = bench_drafts(
                draft, target, text or [], untouched=untouched, options=how, device=device, progress=tell
            )
        if json_out:
            emit_json(found)
        elif not quiet:
            print_drafts(console(), found)
