"""``tokensurgeon [transplant] BASE DONOR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.cli import options as o
from tokensurgeon.cli.common import console, emit_json, guarded, progress_bar


def command(
    base: o.Base,
    donor: o.Donor,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Output directory; by default named after both."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help=f"How new tokens are reconstructed: by the donor's rows, {o.BY_DONOR}; or {o.WITHOUT_DONOR}. "
            "auto tries some on text and keeps the best.  [default: omp]",
        ),
    ] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", help="Anchors per reconstructed token.  [default: 8 for omp]")
    ] = None,
    method_option: o.MethodOption = None,
    token_map: o.Map = None,
    numbers: o.Numbers = None,
    config: o.Config = None,
    untie: Annotated[bool | None, typer.Option("--untie", help="Write a separate LM head for a tied base.")] = None,
    pad_to_multiple_of: o.PadTo = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16 for the whole output.  [default: the base's]"),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How shards of which nothing changes get into the output: hard (a link: the same file, never edit it "
            "in place), copy, or auto (cloned where the file system can, else linked, else copied).  [default: auto]",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to solve: cpu, cuda, cuda:1, mps.  [default: auto]")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Work space of the solver per process, like 4GiB.  [default: half of what is free]"
        ),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact", help="Prove every pick of the solver; the default is right beyond reasonable doubt."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Chooses the held-out anchors that are scored.  [default: 0]")
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Give new tokens the prior that their donor rows suggest; the base reads some text for it.  "
            "[default: where the base is run, for methods that go by the donor's rows]",
        ),
    ] = None,
    forward: o.Forward = None,
    score: Annotated[
        bool | None,
        typer.Option(
            "--score/--no-score",
            help="Let base and output predict a little text, where they are run, and say what is lost.  [default: on]",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="UTF-8 text like what the model will read: its coverage goes into the report, frequent new tokens get "
            "the prior that they have there, --method auto chooses by it, space=fasttext trains on it. Repeatable.  "
            "[default: Python's own documentation]",
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Align and plan; write nothing.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show seconds and memory of each stage; tokensurgeon.json has them too.")
    ] = False,
    json_out: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a model with BASE's body and DONOR's tokenizer.

    Tokens that both vocabularies share, by bytes or by role, keep the base's rows bit for bit. Every
    other donor token is written as a combination of k shared ones in the donor's embedding space, and
    the same combination of the base's rows becomes its row; what it leaves of the donor's row goes through a linear
    map learnt on the shared tokens. Other methods (--method) are there to compare with.

    On several processes or machines: [bold]torchrun --nproc-per-node N -m tokensurgeon BASE DONOR[/bold].
    """
    with guarded(debug=debug, quiet=quiet or json_out):
        from tokensurgeon.cli.tables import print_transplant
        from tokensurgeon.errors import InputError
        from tokensurgeon.solver.distributed import joined, rank
        from tokensurgeon.surgery.options import TransplantOptions, load_recipe
        from tokensurgeon.surgery.transplant import transplant

        if profile and dry_run:
            raise InputError("--profile is for what is written. Leave out --dry-run")
        given = {
            "method": method, "k": k, "method_options": o.parse_pairs(method_option) or None, "numbers": numbers,
            "untie": untie,
            "dtype": dtype, "link": link, "pad_to_multiple_of": pad_to_multiple_of, "device": device,
            "memory": memory, "exact": exact, "seed": seed, "calibrate": calibrate,
            "forward": forward, "score": score,
            "text": tuple(map(str, text)) if text else None,
            "map": o.parse_map(token_map) or None,
        }  # fmt: skip
        options = load_recipe(config) if config else TransplantOptions()
        options = options.updated({name: value for name, value in given.items() if value is not None})
        with joined(), progress_bar(quiet or json_out or rank() > 0) as tell:
            report = transplant(base, donor, out, options, overwrite=overwrite, dry_run=dry_run, progress=tell)
            writes = rank() == 0
        if not writes:
            return
        if json_out:
            emit_json({"out": str(report.out) if report.out else None, **report.content})
        elif not quiet:
            print_transplant(console(), report, profile)
