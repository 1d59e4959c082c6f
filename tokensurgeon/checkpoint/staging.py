"""Write outputs, directories or files, beside their place, and move them there when they are whole."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensurgeon.errors import InputError

__all__ = ["beside", "check_target", "staged"]


def check_target(
    target: Path, overwrite: bool, inputs: Sequence[str] = (), *, suffix: str | None = None, option: str = "--out"
) -> None:
    """Refuse, before any work, a place that cannot take the output or must not lose what it holds.

    Args:
        target: Where the output is to be.
        overwrite: Whether what is there may be replaced.
        inputs: What the output is made from: directories, files or hub ids. None of these is replaced.
        suffix: What the output's name must end in, such as ``.gguf``, if it is a file; None for a directory.
        option: What the command line calls the target.

    Raises:
        InputError: Naming the target, and what to do instead.
    """
    if suffix is None and target.is_file():
        raise InputError(f"{target} is a file; {option} must be a directory")
    if suffix is not None and target.suffix != suffix:
        raise InputError(f"{option} {target} must be a file that ends in {suffix}; call it {target.stem}{suffix}")
    if suffix is not None and target.is_dir():
        raise InputError(f"{option} {target} is a directory; name a file")
    if (target.is_file() or (target.is_dir() and any(target.iterdir()))) and not overwrite:
        what = "exists and is not empty" if suffix is None else "exists"
        raise InputError(f"{target} {what}; give another {option}, or --overwrite")
    kept = [Path.cwd(), *(Path(i).expanduser().resolve() for i in inputs if Path(i).expanduser().exists())]
    for place in kept:
        if target.resolve() in (place, *place.parents):
            raise InputError(f"{option} {target} would replace {place}; give another {option}")
    parent = next(p for p in target.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{option} {target}: {parent} is not a directory that you can write to")


@contextmanager
def staged(target: Path, overwrite: bool, *, suffix: str | None = None, option: str = "--out") -> Iterator[Path]:
    """A place beside the target whose content takes the target's place if all goes well, and vanishes otherwise.

    It is an empty directory, or with a ``suffix`` the name of a file that is not there yet. What `check_target` refuses
    is refused once more in the end. A process that was killed while it replaced a directory may have left the old one
    aside; it is put back.
    """
    for aside in sorted(target.parent.glob(f".{glob.escape(target.name)}.old-*/model")):
        if not target.exists():
            aside.rename(target)
            aside.parent.rmdir()

    def move(work: Path) -> None:
        check_target(target, overwrite, suffix=suffix, option=option)
        if suffix is None:
            _replace(target, work)
        else:
            work.replace(target)

    with beside(target, move, directory=suffix is None) as work:
        yield work


@contextmanager
def beside(target: Path, move: Callable[[Path], None], *, directory: bool) -> Iterator[Path]:
    """A new directory beside the target, or the name of a file, for ``move`` to put where it belongs; else removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = _name_beside(target, "partial")
    try:
        if directory:
            work.mkdir(mode=0o700)  # in here: an interrupt may come right behind it
        yield work
        work.chmod(0o755 if directory else 0o644)
        move(work)
    finally:
        if directory:
            shutil.rmtree(work, ignore_errors=True)
        else:
            work.unlink(missing_ok=True)


def _name_beside(target: Path, what: str) -> Path:
    """A name in the target's directory that nothing has yet; what an interrupt may follow is made in a try block."""
    return target.with_name(f".{target.name}.{what}-{secrets.token_hex(6)}")


def _replace(target: Path, work: Path) -> None:
    """Put ``work`` in the target's place. Between two renames neither is there; `staged` mends what a kill leaves."""
    if not target.is_dir():
        work.rename(target)
        return
    aside = _name_beside(target, "old")
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
