"""Declare arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokensurgeon.errors import InputError

BY_DONOR = "omp, neighbours, ridge, procrustes, wechsel or focus"
"""Methods that go by the donor's rows. A test holds both lists against the registry, which would import torch here."""
WITHOUT_DONOR = "zero, mean, normal or subtoken"

Base = Annotated[
    str, typer.Argument(metavar="BASE", help="Model that keeps its body: directory, .gguf file or hub id.")
]
Donor = Annotated[str, typer.Argument(metavar="DONOR", help="Model that gives the tokenizer.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Directory, .gguf file or hub id.")]
Transplanted = Annotated[str, typer.Argument(metavar="MODEL", help="The transplanted model.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output directory.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Output, a .safetensors file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there; nothing else.")]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps.")]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Further option of the method, such as head=first. Repeatable."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="'TOKEN=TEXT'",
        help="Let the donor's TOKEN stand for a text of the base: its last piece's row for the input, "
        "its first piece's row for the head, their mean where the two are one matrix. Repeatable.",
    ),
]
Numbers = Annotated[
    str | None,
    typer.Option(
        "--numbers",
        metavar="donor|base",
        help="Whose way of cutting numbers the output has. base: digit by digit, where BASE does so and DONOR makes "
        "tokens of several digits; those keep their ids and are never emitted. Keeps the arithmetic and takes more "
        "tokens; not for a draft model or a student, which get ids that DONOR's tokenizer made.  [default: donor]",
    ),
]
TextWeights = Annotated[
    list[float] | None,
    typer.Option(
        "--text-weight",
        metavar="W",
        help="Share in which a text is trained on, such as 0.8 and 0.2 for two; one for each --text.  "
        "[default: by their lengths]",
    ),
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Updates to make, however long they take, instead of --minutes.")
]
Batch = Annotated[int, typer.Option("--batch", help="Pieces of 1 kB of text in an update, per process.")]
Order = Annotated[int, typer.Option("--seed", help="For the order of the text.")]
RowsRate = Annotated[
    float, typer.Option("--learning-rate", help="Of the rows, in units of their own size (root mean square).")
]
Rank = Annotated[
    int, typer.Option("--lora", metavar="RANK", help="Of low-rank updates of the body; 0 trains rows of tokens alone.")
]
UpdatesRate = Annotated[float, typer.Option("--lora-learning-rate", help="Of the low-rank updates.")]
Schedule = Annotated[
    str,
    typer.Option(
        "--schedule",
        metavar="linear|wsd",
        help="How rates go: down from a short warm-up to the end, or (wsd) stay, and go down at the end alone.",
    ),
]
Decay = Annotated[float, typer.Option("--decay", metavar="SHARE", help="Share of the training in which wsd goes down.")]
Average = Annotated[
    int | None,
    typer.Option(
        "--average", metavar="N", help="Try the mean of the last N states too, each 0.02 of the training apart."
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML recipe; options given here win over it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and the libraries' own logs.")]
Texts = Annotated[
    list[Path] | None,
    typer.Option("--text", metavar="FILE", help="UTF-8 text to use instead of Python's own documentation. Repeatable."),
]
Forward = Annotated[
    bool | None,
    typer.Option(
        "--forward/--no-forward",
        help="Run the model on some text: to fit the row that takes no probability, and to see that the output works.  "
        "[default: if its body has at most 2 GiB, or where there is a GPU or memory for more]",
    ),
]
PadTo = Annotated[
    int | None,
    typer.Option(
        "--pad-to-multiple-of",
        metavar="N",
        help="Rows of the output: the donor's tokens rounded up to N, instead of its config.vocab_size.",
    ),
]


def parse_map(entries: list[str] | None) -> dict[str, str]:
    """``TOKEN=TEXT`` strings to a mapping; the token ends at the first ``=`` that is not its start."""
    parsed = {}
    for entry in entries or []:
        cut = entry.find("=", 1)
        if cut < 0 or cut == len(entry) - 1:
            raise InputError(f"--map {entry!r} must look like 'DONOR_TOKEN=base text'")
        parsed[entry[:cut]] = entry[cut + 1 :]
    return parsed


def parse_special(entries: list[str] | None) -> dict[str, str]:
    """``LITERAL=WORDS`` or ``LITERAL`` strings to a mapping; the literal ends as in `parse_map`."""
    parsed = {}
    for entry in entries or []:
        cut = entry.find("=", 1)
        parsed[entry if cut < 0 else entry[:cut]] = "" if cut < 0 else entry[cut + 1 :]
    return parsed


def parse_pairs(entries: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` strings to a mapping."""
    parsed = {}
    for entry in entries or []:
        name, sign, value = entry.partition("=")
        if not (name and sign and value):
            raise InputError(f"--method-option {entry!r} must look like NAME=VALUE")
        parsed[name] = value
    return parsed
