"""Keep what is made once: conversions on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensurgeon.checkpoint.durable import flush
from tokensurgeon.checkpoint.foreign import copy_if_there, taken_files
from tokensurgeon.checkpoint.names import TEMPLATES
from tokensurgeon.checkpoint.partials import recover
from tokensurgeon.checkpoint.staging import beside

__all__ = ["cache_directory", "copy_small_files", "is_kept", "kept", "shown_name"]

_DIGEST = re.compile(r"-[0-9a-f]{12}$")


def cache_directory() -> Path:
    """TOKENSURGEON_CACHE, or ``tokensurgeon`` in the user's cache directory."""
    chosen = os.environ.get("TOKENSURGEON_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen).expanduser() if chosen else Path(base).expanduser() / "tokensurgeon"


def shown_name(reference: str) -> str:
    """What people call a model: the name of its directory or file, or its hub id.

    A conversion in the cache has the name of what was converted.
    """
    place = Path(reference).expanduser()
    if not place.exists():
        return reference
    place = place.resolve()
    converted = place.parent.parent == cache_directory().resolve() and place.parent.name in ("gguf", "bin")
    return _DIGEST.sub("", place.name) if converted else place.name


def is_kept(out: Path) -> bool:
    """Whether a model directory is in the cache, whole."""
    return (out / "config.json").is_file()


@contextmanager
def kept(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` that takes its place if all goes well, and vanishes otherwise."""
    recover(out)

    def move(work: Path) -> None:
        flush(work)
        try:
            work.rename(out)
        except OSError:
            if not is_kept(out):  # another process may have been faster
                raise

    with beside(out, move) as work:
        yield work


def copy_small_files(source: Path, out: Path, weights: Sequence[str]) -> None:
    """Copy the files of a model directory, but for its weights (patterns) and hidden ones, and its chat templates."""
    for path in (*taken_files(source), source / TEMPLATES):
        if not any(path.match(pattern) for pattern in weights):
            copy_if_there(path, out / path.name)
