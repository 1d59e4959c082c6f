"""What the commands share: errors in one line, progress on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "emit_json", "guarded", "progress_bar"]

STAGES = {
    "states": "Reading text through the base",
    "embedding": "Reconstructing tokens (input embedding)",
    "head": "Reconstructing tokens (LM head)",
    "verify": "Writing and verifying",
}


@contextmanager
def guarded(*, debug: bool, quiet: bool, interrupted: str = "nothing was written") -> Iterator[None]:
    """Turn what goes wrong into one line on stderr and exit code 2 (130 after Ctrl-C)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING, format="%(message)s"
    )
    if not debug:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    if quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {interrupted}", err=True)
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            raise
        rank = os.environ.get("RANK", "0")
        typer.echo(f"error: {_one_line(error)}" + (f" (rank {rank})" if rank != "0" else ""), err=True)
        raise typer.Exit(2) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    """A polite kill cleans up as Ctrl-C does, and neither disturbs the cleaning."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _one_line(error: BaseException) -> str:
    from tokensurgeon.errors import InputError, MissingDependencyError, VerificationError

    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InputError | MissingDependencyError | VerificationError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def console() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console(highlight=False)


def emit_json(content: Any) -> None:
    """One JSON object on stdout, and nothing else."""
    letters = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=not letters) + "\n")


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws bars with rate and time left on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
        speed_estimate_period=3600,  # a step may take longer than the 30 s that rich looks back
    ) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=bars.tasks[task].total)
                tasks[stage] = bars.add_task(STAGES.get(stage, stage), total=total, rate="")
            speed = bars.tasks[tasks[stage]].speed
            bars.update(tasks[stage], completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

        yield tell
        for task in tasks.values():
            bars.update(task, completed=bars.tasks[task].total)
