"""Cut or pad a model's rows: the same tokenizer, another ``vocab_size``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokensurgeon.alignment import Alignment, RowPlan
from tokensurgeon.checkpoint.ids import named_ids
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.checkpoint.room import refuse_no_room
from tokensurgeon.checkpoint.settings import CONFIG, GENERATION
from tokensurgeon.checkpoint.staging import check_target, staged
from tokensurgeon.checkpoint.text import read_json_if_there
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.loading import pick_device
from tokensurgeon.evaluation.policy import VERIFY, why_not_run
from tokensurgeon.evaluation.states import quiet_row, read_states
from tokensurgeon.progress import Clock, Progress
from tokensurgeon.report.markdown import code
from tokensurgeon.surgery.body import silent_rows
from tokensurgeon.surgery.own_tokenizer import write_pages
from tokensurgeon.surgery.pair import summarise
from tokensurgeon.surgery.record import describe_run
from tokensurgeon.surgery.write import finish, write_output
from tokensurgeon.transfer.protocol import Use
from tokensurgeon.transfer.rows import assemble

__all__ = ["ResizeReport", "resize"]


@dataclass(frozen=True, slots=True)
class ResizeReport:
    """What was done.

    Attributes:
        out: The written model.
        before: Rows before.
        after: Rows after.
        tokens: One more than the highest id of the tokenizer.
        content: The manifest's content.
    """

    out: Path
    before: int
    after: int
    tokens: int
    content: dict[str, Any]


class _Nothing:
    """No row is made: they are the model's, or take no probability."""

    def blocks(self, matrix: torch.Tensor, use: Use) -> Iterator[torch.Tensor]:  # noqa: ARG002
        """See `tokensurgeon.transfer.rows.RowMaker`."""
        yield from ()


def resize(
    model: str,
    out: Path | str,
    *,
    rows: int | None = None,
    pad_to_multiple_of: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ResizeReport:
    """Write the model with fewer or more rows in its vocabulary-sized tensors; its tokenizer stays.

    Rows that stay are bit for bit the same. New ones take no probability. Only rows that no token has are cut.

    Args:
        model: Directory, ``.gguf`` file, or hub id.
        out: Output directory.
        rows: How many there are to be.
        pad_to_multiple_of: Instead of ``rows``: as many as the tokenizer needs, rounded up to a multiple of this.
        device: Where the model is run, to find a row that takes no probability.
        overwrite: Replace an output that exists.
        progress: Called with (stage, done, total).

    Raises:
        InputError: If rows would be cut that a token or a setting needs, or the model has as many rows already.
        VerificationError: If the written model breaks an invariant; nothing is left behind.

    Example:
        >>> import tokensurgeon
        >>> report = tokensurgeon.resize("base", "out", pad_to_multiple_of=128)
        >>> report.after % 128
        0
    """
    clock = Clock()
    _refuse_odd(rows, pad_to_multiple_of)
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite, (model,))
    left = OpenModel.open(model).checked()
    layout, tokens = left.layout, len(left.vocabulary)
    n_rows = _wanted(left, rows, pad_to_multiple_of)
    refuse_no_room(target, left, n_rows)
    plan, old = RowPlan.kept(range(min(layout.rows, n_rows)), n_rows), left.matrices()
    unrun = why_not_run(left.directory, left.checkpoint, layout, None, device, VERIFY)
    quiet = None
    if n_silent := silent_rows(plan, old):
        states = read_states(left, pick_device(device), progress)[1] if unrun is None else None
        quiet = quiet_row(left, old, n_silent, states)
    matrices = assemble(old, plan, _Nothing(), suppressing=quiet)
    summary = summarise(left, left, Alignment(plan, {}, ()), [])
    described = left.described()
    content = describe_run({"rows": rows, "pad_to_multiple_of": pad_to_multiple_of}, {"name": "resize"}) | {
        "base": described, "donor": described, "held_out": None, "not_run": unrun,
        "resized": {"before": layout.rows, "after": n_rows, "tokens": tokens},
    } | summary  # fmt: skip
    with staged(target, overwrite) as work:
        shared = write_output(work, left, left, matrices, plan, content)
        finish(work, left, left, plan, content, shared, clock, progress, None, pick_device(device))
        write_pages(work, content, summary, f"{left.name}, {n_rows:,} rows", _sentences(left.name, layout.rows, n_rows))
    return ResizeReport(target, layout.rows, n_rows, tokens, content)


def _refuse_odd(rows: int | None, multiple: int | None) -> None:
    if (rows is None) == (multiple is None):
        raise InputError("resize needs one of --rows N and --pad-to-multiple-of M, and not both")
    for option, value in (("--rows", rows), ("--pad-to-multiple-of", multiple)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value} must be at least 1")


def _wanted(model: OpenModel, rows: int | None, multiple: int | None) -> int:
    """The new number of rows, if every id that something names keeps its row."""
    has, tokens = model.layout.rows, len(model.vocabulary)
    named: dict[int, str] = {}
    for file in (CONFIG, GENERATION):
        found = named_ids(read_json_if_there(model.directory / file), has)
        named |= {i: f"{name} in {file} is {i}" for i, name in found.items() if i < has}
    top = max(named, default=-1)
    least = max(tokens, top + 1)
    wanted = rows if rows is not None else least + -least % (multiple or 1)
    if wanted < least:
        why = named[top] if top >= tokens else f"token {model.vocabulary.describe(tokens - 1)} has id {tokens - 1}"
        raise InputError(f"--rows {wanted} would cut rows that {model.name} needs: {why}. Give at least --rows {least}")
    if wanted == has:
        raise InputError(f"nothing to do: {model.name} has {has} rows already")
    return wanted


def _sentences(model: str, before: int, after: int) -> str:
    how = "new ones take no probability" if after > before else "those of no token are cut"
    return (
        f"{code(model)} with {after:,} rows for its {before:,}, by tokensurgeon resize. The tokenizer and the rows "
        f"that stay are the same, bit for bit; {how}. `tokensurgeon revert` takes that back."
    )
