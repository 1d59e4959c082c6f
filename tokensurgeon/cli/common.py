"""Do what the commands share: errors in one line, progress on stderr, results on stdout.

Names, tokens and messages of libraries come from foreign files: all that is printed passes `visible` here.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

from tokensurgeon.errors import gave_up

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

__all__ = ["LINE_EVERY_S", "Tell", "console", "emit_json", "guarded", "print_output", "progress_bar"]

LINE_EVERY_S = 30.0
"""Where nobody sees a bar, a plain line comes this often."""
_FOREIGN = ("transformers", "huggingface_hub")
_LONGEST_LINE = 4000
"""In characters: names in foreign files may be of any length."""


@contextmanager
def guarded(
    *, debug: bool, quiet: bool, interrupted: str = "nothing was written", models: bool = True
) -> Iterator[None]:
    """Turn what goes wrong into one line on stderr and exit code 2 (130 after Ctrl-C).

    Args:
        debug: Let it go on, with its traceback, and what other libraries say.
        quiet: Errors alone.
        interrupted: What Ctrl-C leaves.
        models: Whether models are loaded; transformers takes a good half second only to be told what not to say.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    lines = logging.StreamHandler()
    lines.setFormatter(_Line())
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, handlers=[lines])
    logging.captureWarnings(True)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning" if debug else "error")
    if models and not debug:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    records = logging.getLogRecordFactory()
    if not debug:
        logging.setLogRecordFactory(_plainly(records))
    if quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    former = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
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
        _say(f"error: {_one_line(error)}" + (f" (rank {rank})" if rank != "0" else ""))
        raise typer.Exit(2) from None
    finally:
        logging.captureWarnings(False)
        logging.setLogRecordFactory(records)
        for number, before in former.items():
            signal.signal(number, before)


def _interrupt(*_: object) -> None:
    """A polite kill cleans up as Ctrl-C does, and neither disturbs the cleaning."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _one_line(error: BaseException) -> str:
    from tokensurgeon.errors import InputError, MissingDependencyError, VerificationError

    text = _joined(str(error)) or type(error).__name__
    if isinstance(error, InputError | MissingDependencyError | VerificationError):
        return text
    if gave_up(error):
        return f"a tokenizer cannot cut this text, or not give it back ({text}). Take another tokenizer, or other text"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _joined(text: str) -> str:
    """A message as one line, of a length that can be read."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + "…"


def _plain(text: str) -> str:
    """What is logged, as one line that shows what it holds."""
    from tokensurgeon.vocabulary.visible import visible

    return visible(_joined(text))


def _say(line: str) -> None:
    """One line on stderr."""
    from tokensurgeon.vocabulary.visible import visible

    typer.echo(visible(line), err=True)


class _Line(logging.Formatter):
    """What is logged, in one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (as logging calls it)
        return _plain(record.message)


def _plainly(records: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Records of libraries that have handlers of their own, perhaps not yet: what they say in one line each."""

    def made(*given: Any, **more: Any) -> logging.LogRecord:
        record = records(*given, **more)
        if record.name.partition(".")[0] in _FOREIGN:
            record.msg, record.args = _plain(record.getMessage()), ()
        return record

    return made


def console() -> Console:
    """A rich console on stdout: markup is ours, and what is printed of others must be escaped from it."""
    from rich.console import Console
    from rich.text import Text

    from tokensurgeon.vocabulary.visible import visible

    class Visible(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str("\n".join(map(visible, text.split("\n"))), **how)

    return Visible(highlight=False, emoji=False)


def print_output(out: Path | str, what: str) -> None:
    """Say on stdout where the output is, and what it is."""
    from rich.markup import escape

    console().print(f"[bold]{escape(str(out))}[/bold]{escape(what)}")


def emit_json(content: Any) -> None:
    """One JSON object on stdout, and nothing else."""
    letters = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    for line in json.dumps(content, indent=2, ensure_ascii=not letters).split("\n"):
        plain = line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)
        sys.stdout.write(plain + "\n")


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
            _say(f"{line}, {note}" if note else line)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Tell]:
    """A callback that draws bars with time left and rate, or a note, on stderr; plain lines where that is a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    from tokensurgeon.vocabulary.visible import visible

    screen = Console(stderr=True)
    if not quiet and not screen.is_terminal:
        with _PlainLines() as lines:
            yield lines.update
        return
    with Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        # A column of its own is wrapped where the screen is narrow.
        TextColumn("{task.fields[note]}", markup=False, table_column=Column()),
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
                tasks[stage] = bars.add_task(visible(str(stage)), total=total, note="")
            speed = bars.tasks[tasks[stage]].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bars.update(tasks[stage], completed=done, total=total, note=visible(note) or rate)

        yield tell
        for task in tasks.values():
            bars.update(task, completed=bars.tasks[task].total)
