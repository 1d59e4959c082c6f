"""``tokensurgeon dam MODEL MODEL … --text FILE --text FILE … --out C.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import emit_json, guarded, print_output, progress_bar

if TYPE_CHECKING:
    from tokensurgeon.merging.estimate.dam import CoefficientOptions
    from tokensurgeon.merging.estimate.pieces import Per

HIDDEN = 1.0
"""What ``--hidden`` weighs the hidden states' distance with."""


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL MODEL …", help="The models, as the recipe lists them.")],
    text: Annotated[
        list[Path],
        typer.Option("--text", metavar="FILE", help="Once for each model, in their order: text it was tuned on."),
    ],
    out: o.OutFile,
    per: Annotated[
        str | None,
        typer.Option(
            "--per",
            metavar="column|layer|model",
            help="What has coefficients of its own. column: of every tensor, for merge_method: dam; layer or model: of "
            "the task vectors from --base, for merge_method: expert.  [default: column]",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="What the models were tuned from, for --per layer.")
    ] = None,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="With --per layer: let hidden states be as each model's too.")
    ] = False,
    frank_wolfe: Annotated[
        bool,
        typer.Option(
            "--frank-wolfe",
            help="Weights of an average, for merge_method: fw, by steps towards one model each; per model, or layer.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", help="Updates; each reads 1 kB of every text.")] = 60,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", help="It falls to zero over the steps.  [default: 0.001 per column, else 0.02]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="For the order of the text.")] = 0,
    device: o.Device = "cpu",
    overwrite: o.OverwriteFile = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train the coefficients of a merge: one per model, tensor and column (DAM), or per model and layer.

    The merged model learns to give each model's distributions on that one's text. Give the file to the recipe:
    [bold]merge_method: dam[/bold], [bold]parameters: {coefficients: C.safetensors}[/bold], and the models in the same
    order. All models are held in memory, and must share a tokenizer.

    With [bold]--base MODEL --per layer --hidden[/bold] it is Expert Merging, and the recipe's base_model is MODEL; with
    [bold]--frank-wolfe[/bold] it is FW-Merging. The last line says which merge_method takes the file.
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.merging.estimate.dam import train_dam

        options = _options(per, hidden, frank_wolfe, steps, learning_rate, seed)
        with progress_bar(quiet or json_out) as tell:
            report = train_dam(
                models, list(text), out, options, base=base, device=device, overwrite=overwrite, progress=tell
            )
        if json_out:
            emit_json(
                {
                    "out": str(report.out),
                    "method": report.method,
                    "models": list(report.models),
                    "steps": report.steps,
                    "divergence": {"before": report.before, "after": report.after},
                }
            )
        elif not quiet:
            print_output(
                report.out,
                f" is for merge_method: {report.method}; divergence from the {len(models)} models {report.before:.4f} "
                f"at the beginning, {report.after:.4f} at the end ({report.steps} steps)",
            )


def _options(
    per: str | None, hidden: bool, frank_wolfe: bool, steps: int, learning_rate: float | None, seed: int
) -> CoefficientOptions:
    from tokensurgeon.errors import InputError
    from tokensurgeon.merging.estimate.dam_training import DamOptions
    from tokensurgeon.merging.estimate.expert_training import ExpertOptions
    from tokensurgeon.merging.estimate.fw_training import FrankWolfeOptions

    if per not in (None, "column", "layer", "model"):
        raise InputError(f"--per is {per!r}; it is one of column, layer, model")
    groups: Per | None = "layer" if per == "layer" else "model" if per == "model" else None
    rate = {} if learning_rate is None else {"learning_rate": learning_rate}
    if frank_wolfe:
        if per == "column" or hidden or rate:
            raise InputError("--frank-wolfe goes with --per layer or model; not with --hidden or --learning-rate")
        return FrankWolfeOptions(steps=steps, seed=seed, per=groups or "model")
    if groups is not None:
        return ExpertOptions(steps=steps, seed=seed, per=groups, hidden=HIDDEN if hidden else 0.0, **rate)
    if hidden:
        raise InputError("--hidden goes with --per layer or model")
    return DamOptions(steps=steps, seed=seed, **rate)
