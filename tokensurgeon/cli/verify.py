"""``tokensurgeon verify MODEL --base BASE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A transplanted model's directory.")],
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The model whose body it has.")],
    donor: Annotated[
        str | None,
        typer.Option("--donor", metavar="DONOR", help="The model whose tokenizer it has, to compare with."),
    ] = None,
    forward: o.Forward = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Check a transplanted model: body byte for byte, anchors bit for bit, ids, tokenizer, forward pass.

    Runs after every transplant by itself. Exits with 2 if a check fails.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors, resolve
        from tokensurgeon.cli.tables import print_checks
        from tokensurgeon.errors import VerificationError
        from tokensurgeon.evaluation.policy import why_not_run
        from tokensurgeon.verification.tensors import verify

        files = Checkpoint.open(model)
        unrun = why_not_run(model, files, find_vocabulary_tensors(model, files.tensors), forward)
        checks = verify(model, resolve(base), resolve(donor, weights="none") if donor else None, unrun=unrun)
        if json_out:
            emit_json({c.name: {"ok": c.ok, "detail": c.detail} for c in checks})
        elif not quiet:
            print_checks(console(), checks)
        failed = [c for c in checks if not c.ok]
        if failed:
            raise VerificationError(
                f"{len(failed)} of {len(checks)} checks failed: {failed[0].name}: {failed[0].detail}"
            )
