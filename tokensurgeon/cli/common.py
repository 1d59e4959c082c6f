"""Do what the commands share: errors in one line, progress on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

from tokensurgeon.errors import gave_up

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LINE_EVERY_S", "Tell", "console", "emit_json", "guarded", "progress_bar"]

LINE_EVERY_S = 30.0
"""Where nobody sees a bar, a plain line comes this often."""
_LONGEST = 2000
"""Characters of a line: a token that it names may have a million."""


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
    except BaseException as error:
        if debug or not (isinstance(error, Exception) or gave_up(error)):
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
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if isinstance(error, InputError | MissingDependencyError | VerificationError):
        return text
    if gave_up(error):
        return f"a tokenizer cannot cut this text, or not give it back ({text}). Take another tokenizer, or other text"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def console() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console(highlight=False)


def emit_json(content: Any) -> None:
    """One JSON object on stdout, and nothing else."""
    letters = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=not letters) + "\n")


class Tell(Protocol):
    """A `tokensurgeon.progress.Progress` that takes a note too: what else there is to say of the stage."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say how far a stage is."""


class _PlainLines:
    """Lines in a log file: every half minute what is being done, how far it is, and how long it may still take."""

    def __init__(self) -> None:
        """Nothing is written before the first half minute is over."""
        self._now: tuple[str, int, int, float, str] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> _PlainLines:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, without waiting for the next line."""
        self._over.set()
        self._thread.join()

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say how far a stage is, and what else there is to say of it."""
        now = self._now
        started = now[3] if now is not None and now[0] == stage else time.monotonic()
        self._now = (stage, done, total, started, note)

    def _tell(self) -> None:
        while not self._over.wait(LINE_EVERY_S):
            if (now := self._now) is None:
                continue
            stage, done, total, started, note = now
            line = f"{stage}: {done:,} of {total:,}"
            if 0 < done < total:
                line += f", {(time.monotonic() - started) * (total - done) / done:,.0f} s left"
            typer.echo(f"{line}, {note}" if note else line, err=True)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Tell]:
    """A callback that draws bars with time left and rate, or a note, on stderr; plain lines where that is a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    screen = Console(stderr=True)
    if not quiet and not screen.is_terminal:
        with _PlainLines() as lines:
            yield lines.update
        return
    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", table_column=Column()),  # it is wrapped where the screen is narrow
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
        disable=quiet,
        speed_estimate_period=3600,  # a step may take longer than the 30 s that rich looks back
    ) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=bars.tasks[task].total)
                tasks[stage] = bars.add_task(str(stage), total=total, note="")
            speed = bars.tasks[tasks[stage]].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bars.update(tasks[stage], completed=done, total=total, note=note or rate)

        yield tell
        for task in tasks.values():
            bars.update(task, completed=bars.tasks[task].total)
