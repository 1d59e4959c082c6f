"""Make the hidden places in which outputs are written, and clean up those of processes that are dead.

A place is a directory beside the output, on the same file system, and locked as long as its process lives: the
system drops the lock when a process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["INSIDE", "LONGER", "hidden_place", "recover"]

log = logging.getLogger(__name__)

_KINDS = ("partial", "old")
_TAIL = 6
_NAMED = re.compile(rf".*\.({'|'.join(_KINDS)})-[0-9a-f]{{{2 * _TAIL}}}")
LONGER = len("..partial-") + 2 * _TAIL
"""Characters by which the name of a place is longer than the output's."""
INSIDE = "model"
"""What an output is called in there."""


@contextmanager
def hidden_place(target: Path, kind: str) -> Iterator[Path]:
    """A new, empty, locked directory beside an output, which is gone in the end with whatever is in it.

    But for an output that was moved into it and not replaced, whatever came between: that is put back.

    Args:
        target: The output.
        kind: ``partial`` for what is written, ``old`` for what it replaces.
    """
    place, lock = _name(target, kind), None
    try:
        place.mkdir(mode=0o700)  # in here: an interrupt may come right behind it
        while (lock := _lock(place, wait=True)) is None:  # another process took it for a dead one's just before
            place = _name(target, kind)
            place.mkdir(mode=0o700)
        yield place
    finally:
        try:
            _clear(place, target, kind)
        finally:
            if lock is not None:
                os.close(lock)


def recover(target: Path) -> None:
    """Put back or remove what dead processes left beside an output, and say so in a line for each on stderr.

    An output that was moved aside, and not yet replaced, is put back.
    """
    for kind in _KINDS:
        for place in sorted(target.parent.glob(f".{glob.escape(target.name)}.{kind}-*")):
            if not _NAMED.fullmatch(place.name) or (lock := _lock(place, wait=False)) is None:
                continue
            try:
                if _clear(place, target, kind):
                    log.warning("%s is put back, which a run that was killed had moved aside", target)
                else:
                    log.warning("removing %s, which a run that was killed left behind", place)
            finally:
                os.close(lock)


def _clear(place: Path, target: Path, kind: str) -> bool:
    """Remove a place; whether an output was in it that nothing replaces, and is put back. It stays if that fails."""
    alone = kind == "old" and (place / INSIDE).exists() and not os.path.lexists(target)
    if alone:
        (place / INSIDE).rename(target)
    shutil.rmtree(place, ignore_errors=True)
    return alone


def _name(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(_TAIL)}")


def _lock(place: Path, *, wait: bool) -> int | None:
    """Lock a directory; None where somebody else has it, or it is gone, or nothing can be locked there.

    Where nothing can be locked, a place is used without, and one that is found is left alone.
    """
    if sys.platform == "win32":
        return os.open(os.devnull, os.O_RDONLY) if wait else None
    import fcntl

    try:
        found = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError:
        if wait:
            raise
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if wait:
            return found
        os.close(found)
        return None
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(found), place.stat()):
            return found
    os.close(found)
    return None
