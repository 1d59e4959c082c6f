"""``tokensurgeon export MODEL --gguf FILE``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Directory or hub id.")],
    gguf: Annotated[Path, typer.Option("--gguf", metavar="FILE", help="The file to write, for llama.cpp.")],
    dtype: Annotated[
        str | None, typer.Option(help="Matrices as f32, f16 or bf16; vectors are always f32. Default: f16.")
    ] = None,
    quantise: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Such as Q8_0, by llama.cpp's llama-quantize; not with --dtype.")
    ] = None,
    overwrite: o.OverwriteFile = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a model as GGUF, tokenizer included.

    For Llama-, Mistral-, Qwen- and Gemma-3-like models with byte-level or SentencePiece-like BPE.
    [bold]tokensurgeon check MODEL --for llama.cpp[/bold] says beforehand whether llama.cpp can read it.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.errors import InputError
        from tokensurgeon.gguf import export_gguf
        from tokensurgeon.gguf.quantise import export_quantised

        if dtype is not None and quantise is not None:
            raise InputError(f"--dtype {dtype} and --quantise {quantise} are two wishes for one file. Drop one of them")
        with progress_bar(quiet or json_out) as tell:
            if quantise is not None:
                report = export_quantised(model, gguf, quantise, overwrite=overwrite, progress=tell)
            else:
                report = export_gguf(model, gguf, dtype=dtype or "f16", overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({**asdict(report), "out": str(report.out)})
        elif not quiet:
            print_output(
                report.out,
                f": {report.architecture}, {report.tensors} tensors in {report.dtype}, "
                f"{report.bytes / 2**20:,.0f} MiB; {report.tokens:,} tokens (tokenizer {report.tokenizer}, "
                f"pre-tokenizer {report.pre})",
            )
