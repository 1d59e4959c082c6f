"""Outputs appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensurgeon.errors import InputError

__all__ = ["beside", "check_target", "staged"]


def check_target(target: Path, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """Refuse, before any work, a place that cannot take the output or must not lose what it holds."""
    if target.is_file():
        raise InputError(f"{target} is a file; --out must be a directory")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target} exists and is not empty; give another --out, or --overwrite")
    kept = [Path.cwd(), *(Path(i).expanduser().resolve() for i in inputs if Path(i).expanduser().exists())]
    for place in kept:
        if target.resolve() in (place, *place.parents):
            raise InputError(f"--out {target} would replace {place}; give another --out")
    parent = next(p for p in target.parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"--out {target}: {parent} is not a directory that you can write to")


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """A directory beside the target that takes its place if all goes well, and vanishes otherwise.

    A process that was killed while it replaced a target may have left the old one aside; it is put back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for aside in sorted(target.parent.glob(f".{glob.escape(target.name)}.old-*/model")):
        if not target.exists():
            aside.rename(target)
            aside.parent.rmdir()
    work = beside(target, "partial")
    try:
        work.mkdir(mode=0o700)  # in here: an interrupt may come right behind it
        yield work
        work.chmod(0o755)
        check_target(target, overwrite)
        _replace(target, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def beside(target: Path, what: str) -> Path:
    """A name in the target's directory that nothing has yet; what an interrupt may follow is made in a try block."""
    return target.with_name(f".{target.name}.{what}-{secrets.token_hex(6)}")


def _replace(target: Path, work: Path) -> None:
    """Put ``work`` in the target's place. Between two renames neither is there; `staged` mends what a kill leaves."""
    if not target.is_dir():
        work.rename(target)
        return
    aside = beside(target, "old")
    try:
        aside.mkdir(mode=0o700)
        target.rename(aside / "model")
        try:
            work.rename(target)
        except BaseException:
            (aside / "model").rename(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
