"""``tokensurgeon evaluate MODEL``."""

from __future__ import annotations

from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, progress_bar


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model directory, .gguf file or hub id.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="OTHER", help="A second model, scored on the same text."),
    ] = None,
    text: o.Texts = None,
    max_bytes: Annotated[
        int, typer.Option(min=64, help="Bytes of each text that are scored, from its beginning.")
    ] = 32_768,
    device: o.Device = "cpu",
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure bits per byte, which can be compared across tokenizers.

    For a transplanted model the loss is split into tokens that the base knew (shared) and
    reconstructed ones (new), and the probability on ids that can never be right is measured.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_evaluation
        from tokensurgeon.evaluation.evaluate import evaluate
        from tokensurgeon.evaluation.texts import open_texts

        texts = open_texts(text or [], max_bytes)
        results = {}
        with progress_bar(quiet or json_out) as tell:
            for name in [model] if against is None else [model, against]:
                results[name] = evaluate(name, texts, device, tell)
        if json_out:
            emit_json(results)
        elif not quiet:
            print_evaluation(console(), results)
