"""``tokensurgeon adapters average|pack|unpack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", context_settings={"help_option_names": ["--help", "-h"]}
)

Adapters = Annotated[
    list[str], typer.Argument(metavar="ADAPTER ADAPTER …", help="PEFT adapters of one base: directories or hub ids.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that is there; nothing else.")]


@app.callback()
def _group() -> None:
    """Average LoRA adapters of one base, or keep several in one file."""


@app.command("average")
def average(
    adapters: Adapters,
    out: o.Out,
    metric: Annotated[
        list[float] | None,
        typer.Option("--metric", help="Once for each adapter, in their order: its loss.  [default: all alike]"),
    ] = None,
    penalty: Annotated[float, typer.Option("--penalty", help="Exponent: more of it holds worse ones down.")] = 1.0,
    higher_is_better: Annotated[
        bool, typer.Option("--higher-is-better", help="A metric is an accuracy, or steps, not a loss.")
    ] = False,
    overwrite: Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Average the factors of adapters of one training run, better ones more.

    For adapters from different runs the product of averages is not the average of products: what that makes is
    reported, and a warning says where it is too much.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.adapters.average import average_adapters

        report = average_adapters(
            adapters,
            out,
            metrics=metric,
            penalty=penalty,
            lower_is_better=not higher_is_better,
            overwrite=overwrite,
        )
        if json_out:
            emit_json({"out": str(report.out), "weights": report.weights, "modules": report.modules, "gap": report.gap})
        elif not quiet:
            shares = ", ".join(f"{share:.3f}" for share in report.weights.values())
            print_output(
                report.out,
                f": {report.modules} modules, weights {shares}; it differs by {100 * report.gap:.1f}% from the average "
                "of what the adapters do",
            )


@app.command("pack")
def pack(
    adapters: Adapters,
    out: o.OutFile,
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", metavar="K", help="Tensors of the basis; fewer than adapters lose some.  [default: all]"
        ),
    ] = None,
    overwrite: o.OverwriteFile = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write one file from which each of several adapters comes back.

    Every tensor becomes a combination of K that the adapters share. With as many as there are adapters, all come back
    but for rounding; with fewer, the file is smaller, and what each loses is reported.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.adapters.pack import pack_adapters

        report = pack_adapters(adapters, out, keep=keep, overwrite=overwrite)
        if json_out:
            emit_json(
                {
                    "out": str(report.out),
                    "keep": report.keep,
                    "errors": report.errors,
                    "bytes": report.bytes,
                    "bytes_before": report.bytes_before,
                }
            )
        elif not quiet:
            lost = ", ".join(f"{name} {100 * error:.2g}%" for name, error in report.errors.items())
            print_output(
                report.out,
                f": {len(report.errors)} adapters in {report.bytes / 2**20:.1f} MiB instead of "
                f"{report.bytes_before / 2**20:.1f}; what comes back differs by {lost}",
            )


@app.command("unpack")
def unpack(
    packed: Annotated[Path, typer.Argument(metavar="PACK", help="A file that adapters pack wrote.")],
    adapter: Annotated[str, typer.Argument(metavar="NAME", help="Which of its adapters: its directory's name.")],
    out: o.Out,
    overwrite: Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Take one adapter out of a file that adapters pack wrote, for PEFT to load."""
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.adapters.pack import unpack_adapter

        target = unpack_adapter(packed, adapter, out, overwrite=overwrite)
        if json_out:
            emit_json({"out": str(target), "adapter": adapter})
        elif not quiet:
            print_output(out, f" is ready: the adapter {adapter}")
