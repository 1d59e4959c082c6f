"""Write outputs, directories or files, beside their place, and move them there when they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokensurgeon.checkpoint.durable import put_in_place
from tokensurgeon.checkpoint.occupied import refuse_loss
from tokensurgeon.checkpoint.partials import INSIDE, LONGER, hidden_place, recover
from tokensurgeon.errors import InputError

__all__ = ["beside", "check_target", "staged"]

_PATHCONF = hasattr(os, "pathconf")
_BELOW = LONGER + 128
"""Bytes of a path that names inside of an output may need."""


def check_target(
    target: Path, overwrite: bool, inputs: Sequence[str] = (), *, suffix: str | None = None, option: str = "--out"
) -> None:
    """Refuse, before any work, a place that cannot take the output or must not lose what it holds.

    What runs that were killed left beside the target is put back or removed first, with a line on stderr.

    Args:
        target: Where the output is to be.
        overwrite: Whether a model, or a file of the same kind, that is there may be replaced.
        inputs: What the output is made from: directories, files or hub ids. None of these is replaced.
        suffix: What the output's name must end in, such as ``.gguf``, if it is a file; None for a directory.
        option: What the command line calls the target.

    Raises:
        InputError: Naming the target, and what to do instead.
    """
    if suffix is not None and target.suffix != suffix:
        raise InputError(f"{option} {target} must be a file that ends in {suffix}; call it {target.stem}{suffix}")
    _refuse_unreachable(target, option)
    recover(target)
    if target.is_symlink():
        raise InputError(f"{option} {target} is a link to {os.path.realpath(target)}; name that place itself")
    if target.is_mount():
        raise InputError(f"{option} {target} is where a file system is mounted; name a directory in there")
    if suffix is None and os.path.lexists(target) and not target.is_dir():
        what = "a file" if target.is_file() else "no file and no directory"
        raise InputError(f"{target} is {what}; {option} must be a directory")
    if suffix is not None and os.path.lexists(target) and not target.is_file():
        what = "a directory" if target.is_dir() else "no file"
        raise InputError(f"{option} {target} is {what}; name a file")
    taken = target.is_file() or (target.is_dir() and any(target.iterdir()))
    if taken and not overwrite:
        what = "exists and is not empty" if suffix is None else "exists"
        raise InputError(f"{target} {what}; give another {option}, or --overwrite")
    kept = [Path.cwd(), *(Path(i).expanduser().resolve() for i in inputs if os.path.lexists(Path(i).expanduser()))]
    for place in kept:
        if target.resolve() in (place, *place.parents):
            raise InputError(f"{option} {target} would replace {place}; give another {option}")
    if taken:
        refuse_loss(target, suffix, option)


@contextmanager
def staged(target: Path, overwrite: bool, *, suffix: str | None = None, option: str = "--out") -> Iterator[Path]:
    """A place beside the target whose content takes the target's place if all goes well, and vanishes otherwise.

    It is an empty directory, or with a ``suffix`` the name of a file that is not there yet. What `check_target` refuses
    is refused once more in the end. What a kill or a power cut leaves, `put_in_place` says.
    """

    def move(work: Path) -> None:
        check_target(target, overwrite, suffix=suffix, option=option)
        put_in_place(work, target)

    with beside(target, move, suffix=suffix) as work:
        yield work


@contextmanager
def beside(target: Path, move: Callable[[Path], None], *, suffix: str | None = None) -> Iterator[Path]:
    """A new directory beside the target, or the name of a file, for ``move`` to put where it belongs; else removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with hidden_place(target, "partial") as place:
        work = place / f"{INSIDE}{suffix or ''}"
        mode = None
        if suffix is None:
            work.mkdir()
        else:
            work.touch()
            mode = work.stat().st_mode  # as the umask has it: safetensors makes files that nobody else may read
            work.unlink()
        yield work
        if mode is not None:
            work.chmod(mode)
        move(work)


def _refuse_unreachable(target: Path, option: str) -> None:
    """Refuse a target that cannot be made: its name is too long, or what is above it cannot be written to."""
    parent = next(place for place in target.absolute().parents if os.path.lexists(place))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {target}: {parent} is not a directory that you can write to")
    longest, whole = (os.pathconf(parent, f"PC_{what}_MAX") for what in ("NAME", "PATH")) if _PATHCONF else (255, 260)
    for part in target.absolute().parts[len(parent.parts) :]:
        most = longest - (LONGER if part == target.name else 0)
        if (length := len(os.fsencode(part))) > most:
            raise InputError(f"{option}: the name {part[:24]}… has {length} bytes; give one of at most {most}")
    length, most = len(os.fsencode(target.absolute())), whole - _BELOW
    if length > most:
        raise InputError(f"{option}: the path {str(target)[:24]}… has {length} bytes; give one of at most {most}")
