"""Refuse, before any work, an output for which its device has no room, or to which shards cannot be linked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from tokensurgeon.checkpoint.header import DTYPES
from tokensurgeon.checkpoint.linking import Link
from tokensurgeon.checkpoint.model import OpenModel, other_files
from tokensurgeon.checkpoint.partials import hidden_place
from tokensurgeon.errors import InputError

__all__ = ["output_bytes", "refuse_full", "refuse_no_room", "unchanged_shards"]

_PAGES = 64 << 20
"""Bytes for the tokenizer, the manifest and the report."""


def refuse_no_room(
    target: Path, base: OpenModel, rows: int, *, untie: bool = False, dtype: str | None = None, link: Link = "auto"
) -> None:
    """Refuse an output that would not fit beside what is there now, or a hard link that cannot be made.

    Args:
        target: Where the output is to be.
        base: The model whose body it gets.
        rows: Of its embedding.
        untie: Whether it gets a head of its own.
        dtype: What all tensors are converted to.
        link: How unchanged shards get there.

    Raises:
        InputError: Saying how much is needed and how much there is, or that links are impossible.
    """
    parent = next(place for place in target.parents if place.exists())
    shards = [] if dtype else unchanged_shards(base)
    linked = link != "copy" and bool(shards) and _links(base.directory / shards[0], parent / target.name)
    if link == "hard" and shards and not linked:
        raise InputError(
            f"{base.directory / shards[0]} cannot be hard-linked into {parent}. Use --link copy, or an --out on the "
            "same file system"
        )
    refuse_full(target, output_bytes(base, rows, without=shards if linked else (), untie=untie, dtype=dtype))


def refuse_full(target: Path, needed: int, option: str = "--out") -> None:
    """Refuse an output of so many bytes where its device has less left.

    Args:
        target: Where it is to be.
        needed: Bytes.
        option: What the command line calls the target.

    Raises:
        InputError: Saying how much is needed and how much there is.
    """
    parent = next(place for place in target.parents if place.exists())
    if needed > (free := shutil.disk_usage(parent).free):
        raise InputError(
            f"{option} {target} needs about {_shown(needed)}, and {parent} has {_shown(free)} left. Make room, or give "
            f"another {option}"
        )


def output_bytes(
    base: OpenModel, rows: int, *, without: Iterable[str] = (), untie: bool = False, dtype: str | None = None
) -> int:
    """About how many bytes an output has: the base's, with another number of rows, and its other files.

    Args:
        base: The model whose body it gets.
        rows: Of its embedding.
        without: Shards that cost nothing.
        untie: Whether it gets a head of its own.
        dtype: What all tensors are converted to.
    """
    layout, tensors, free = base.layout, base.checkpoint.tensors, set(without)
    grown = {layout.embedding, layout.head, layout.bias, *base.layout.unclaimed}

    def size(name: str) -> int:
        info = tensors[name]
        length = info.nbytes
        if dtype and info.dtype in DTYPES:
            length = length // DTYPES[info.dtype].itemsize * getattr(torch, dtype).itemsize
        return length * rows // layout.rows if name in grown else length

    total = sum(size(name) for name, info in tensors.items() if info.file.name not in free)
    total += size(layout.embedding) if untie and layout.tied else 0
    return total + sum(path.stat().st_size for path in other_files(base.directory)) + _PAGES


def unchanged_shards(base: OpenModel) -> list[str]:
    """Names of the shards in which no row of the vocabulary lies."""
    layout = base.layout
    own = (layout.embedding, layout.head, layout.bias, *layout.stale, *layout.unclaimed)
    changed = {base.checkpoint.tensors[name].file.name for name in own if name}
    return [name for name in base.checkpoint.shards if name not in changed]


def _links(source: Path, target: Path) -> bool:
    """Whether a file can be hard-linked to where an output is to be: tried, as devices alone do not say."""
    with hidden_place(target, "partial") as place:
        try:
            os.link(source.resolve(), place / source.name)
        except OSError:
            return False
    return True


def _shown(size: int) -> str:
    unit = next((power for power in (4, 3, 2) if size >= 1 << 10 * power), 1)
    return f"{size / (1 << 10 * unit):.1f} {'KMGT'[unit - 1]}iB"
