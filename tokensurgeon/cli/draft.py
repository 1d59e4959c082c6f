"""``tokensurgeon draft SMALL TARGET --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, print_output, progress_bar
from tokensurgeon.cli.memory import give_back_freed_memory

if TYPE_CHECKING:
    from tokensurgeon.drafting import DraftReport
    from tokensurgeon.evaluation.acceptance import Prediction


def command(
    small: Annotated[str, typer.Argument(metavar="SMALL", help="The model that is to draft.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The model whose text is wanted.")],
    out: o.Out,
    method: Annotated[str, typer.Option("--method", "-m", help="How new tokens are made.")] = "ridge",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", metavar="FILE", help="UTF-8 text that prompts are taken from. Default: Python's. Repeatable."
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0, help="Let the draft learn for so long from what TARGET writes.")
    ] = 0.0,
    lora: Annotated[
        int, typer.Option(min=0, metavar="RANK", help="Of what is learnt in the body; 0 trains rows of tokens alone.")
    ] = 16,
    tool: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="TOOL", help="llama.cpp, vllm or transformers: stop where it would refuse."),
    ] = None,
    gguf: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the draft for llama.cpp too.")] = None,
    quantise: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Such as Q8_0: of the GGUF, by llama.cpp's llama-quantize.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts that the draft is measured on.")] = 16,
    prompt_bytes: Annotated[int, typer.Option(min=16, help="Bytes of text in each prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens that TARGET writes after each.")] = 64,
    device: o.Device = "cpu",
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    overwrite: o.Overwrite = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Make SMALL a draft model for TARGET, and predict what it gains.

    SMALL gets TARGET's tokenizer. With --minutes, TARGET writes texts for half of the time, and the draft learns from
    them what TARGET believes at every position; what is interrupted goes on where it was. What the draft agrees to of
    other texts by TARGET, with the times of both models, gives the best number of drafted tokens and the speed-up in
    transformers on this device.
    """
    with guarded(debug=debug, quiet=quiet or json_out, interrupted="the same command goes on from what was saved"):
        from tokensurgeon.drafting import MakeDraftOptions, make_draft
        from tokensurgeon.gguf import export_gguf
        from tokensurgeon.gguf.quantise import export_quantised

        if minutes:  # or it only transplants, which keeps what it frees
            give_back_freed_memory()
        options = MakeDraftOptions(
            method=method, text=tuple(map(str, text or ())), minutes=minutes, lora=lora, prompts=prompts,
            prompt_bytes=prompt_bytes, new_tokens=new_tokens, device=device, seed=seed,
        )  # fmt: skip
        _check_gguf(gguf, quantise, out, (small, target), overwrite)
        with progress_bar(quiet or json_out) as tell:
            report = make_draft(
                small, target, out, options, tools=tool or (), gguf=gguf is not None, overwrite=overwrite,
                progress=tell,
            )  # fmt: skip
    stands = f"the draft stands in {out}; tokensurgeon export {out} --gguf {gguf} writes what is missing"
    with guarded(debug=debug, quiet=quiet or json_out, interrupted=stands):
        with progress_bar(quiet or json_out) as tell:
            if gguf is not None and quantise is not None:
                export_quantised(str(report.out), gguf, quantise, overwrite=overwrite, progress=tell)
            elif gguf is not None:
                export_gguf(str(report.out), gguf, overwrite=overwrite, progress=tell)
        if json_out:
            emit_json({"out": str(report.out), "gguf": None if gguf is None else str(gguf), **report.told})
        elif not quiet:
            _print(report, gguf)


def _check_gguf(gguf: Path | None, quantise: str | None, out: Path, inputs: tuple[str, str], overwrite: bool) -> None:
    """What would only be found when the draft is there."""
    import importlib.util

    from tokensurgeon.checkpoint.staging import check_target
    from tokensurgeon.errors import InputError, MissingDependencyError
    from tokensurgeon.gguf.quantise import check_quantising

    if gguf is None:
        if quantise is not None:
            raise InputError("--quantise is for --gguf. Name a file with that")
        return
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", "gguf", "--gguf")
    place = gguf.expanduser().absolute()
    if out.expanduser().absolute() in (place, *place.parents):
        raise InputError(f"--gguf {gguf} lies in --out {out}, which holds a model directory. Name a file beside it")
    check_target(place, overwrite, inputs, suffix=".gguf", option="--gguf")
    if quantise is not None:
        check_quantising(quantise)


def _print(report: DraftReport, gguf: Path | None) -> None:
    from tokensurgeon.cli.tables import print_draft_lengths

    told, best = report.told, report.prediction
    if best is not None and report.sampled is not None:
        print_draft_lengths(console(), best.by_length, report.sampled.by_length)
    before = ""
    if told["learnt_from"]:
        before = f" ({told['greedy_before']:.0%} and {told['overlap_before']:.0%} before it learnt)"
    pays = "one of the two keeps no cache that can be timed, so that no speed is predicted"
    if best is not None and report.sampled is not None:
        pays = f"greedily {_pays(best)}, by sampling {_pays(report.sampled)}"
    where = "" if gguf is None else f" (and {gguf})"
    print_output(
        report.out,
        f"{where}: the target agrees to {told['greedy']:.0%} of drafted tokens greedily, to {told['overlap']:.0%} or "
        f"more of sampled ones{before}; {pays}",
    )


def _pays(of: Prediction) -> str:
    if not of.draft_tokens:
        return "no length of draft pays here"
    return f"draft {of.draft_tokens} tokens at a time for {of.speed_up:.2f} times the speed"
