"""Say how a training went, whatever the command that trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokensurgeon.cli.common import emit_json, print_output

if TYPE_CHECKING:
    from tokensurgeon.healing import HealReport

__all__ = ["is_first_process", "tell_of_training"]


def is_first_process() -> bool:
    """Whether this one, of those that were launched together, talks."""
    return os.environ.get("RANK", "0") == "0"


def tell_of_training(
    report: HealReport, told: str, more: Mapping[str, Any] | None = None, *, json_out: bool, quiet: bool
) -> None:
    """Print what became of it; nothing on processes that did not write.

    Args:
        report: How it went.
        told: What is said behind steps, tokens and minutes.
        more: What the JSON object has besides.
        json_out: Print that object instead.
        quiet: Print nothing.
    """
    if report.out is None:
        return
    if json_out:
        emit_json({**asdict(report), "out": str(report.out), **(more or {})})
    elif not quiet:
        start, best = report.curve[0], report.best
        print_output(
            report.out,
            f": bits per byte on held-out text of the kind that was trained on "
            f"{start['held_out']:.4f} before, {best['held_out']:.4f} after; on text of another kind "
            f"{start['other']:.4f} before, {best['other']:.4f} after "
            f"({report.steps} steps, {report.tokens:,} tokens, {report.seconds / 60:.1f} minutes{told})",
        )
