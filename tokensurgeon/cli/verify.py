"""``tokensurgeon verify MODEL --base BASE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A directory that tokensurgeon wrote.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="BASE", help="The model whose body it has; a merge has none.")
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option("--donor", metavar="DONOR", help="The model whose tokenizer it has; its weights are used too."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the sample of rows that are made again, to repeat one.  [default: drawn anew]", min=0),
    ] = None,
    forward: o.Forward = None,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Check a model that tokensurgeon wrote, and that may have been changed since. Exits with 2 if a check fails.

    BASE and DONOR are trusted, MODEL is not, and neither is its tokensurgeon.json.

    With --base: the body is BASE's byte for byte, copied rows bit for bit, in the places that both tokenizers say;
    config.json, generation_config.json and other files are BASE's but for what a transplant changes; no file was added
    that a loader reads or runs; names and shapes fit the model class; dead ids take no probability.

    With --donor too: the tokenizer's files and stop tokens are DONOR's, and new rows are what the method makes of
    DONOR's: all of them, or a sample where that would take long; a sample of omp's by scikit-learn.

    A merge, without --base: files and tensors are those that were written, fit its class, and run.

    Digests in tokensurgeon.json show any change by somebody who did not change them as well.

    What cannot be proven: that DONOR is honest; what a healing run learnt; rows by methods normal and fasttext, and
    those that extend took from a donor; rows that --map placed; by how much calibration shifted rows, where BASE is not
    run here, was calibrated on a text, or under another Python; new rows outside of the sample; the tokenizer and all
    new rows without --donor. Rows that are not made again must only keep to what BASE's rows are like.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.checkpoint import Checkpoint, find_vocabulary_tensors, resolve
        from tokensurgeon.cli.tables import print_checks
        from tokensurgeon.errors import VerificationError
        from tokensurgeon.evaluation.policy import why_not_run
        from tokensurgeon.verification.verify import verify

        files = Checkpoint.open(model)
        unrun = why_not_run(model, files, find_vocabulary_tensors(model, files.tensors), forward)
        given = resolve(donor, weights="vocabulary") if donor else None
        checks = verify(model, resolve(base) if base else None, given, unrun=unrun, seed=seed)
        if json_out:
            emit_json({c.name: {"ok": c.ok, "note": c.note, "detail": c.detail} for c in checks})
        elif not quiet:
            print_checks(console(), checks)
        failed = [c for c in checks if not c.ok]
        if failed:
            raise VerificationError(
                f"{len(failed)} of {len(checks)} checks failed: {failed[0].name}: {failed[0].detail}"
            )
