"""Encode a text that comes in parts, of any length, into the ids that the whole of it has.

The text is cut into windows that overlap. Where a later one starts, the window before and its own last stretch are both
encoded: they end at the same character, so that their ids agree from some place to the end if the new start does no
harm. From that place on the later window goes on. Nothing is presumed of the tokenizer: whatever it puts before a text,
or cuts otherwise because a text begins there, lies before the place where both agree and is left out.

Within a word, agreement is a proof for byte pair encoding: ids are the encoding of a text if each two neighbours are
that of theirs (Neubeck and van Antwerpen, "So many tokens, so little time", GitHub 2024), and those at the joint are
neighbours in the window before. What it cannot show is a pre-tokenizer that counts further than the overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

__all__ = ["Counts", "counted_ids", "encoded_parts"]

log = logging.getLogger(__name__)

Counts = np.ndarray[Any, np.dtype[np.int64]]
"""(n,) how often each id occurs."""

_WINDOW = 3 << 15
"""Characters. Multiples of three, for numbers that are cut by threes, and of a power of two, for runs of spaces."""
_OVERLAPS = ((32, 128), (4, 8))
"""Overlaps as parts of a window, and how many places next to each other are tried as the start of the next one."""


def encoded_parts(
    encode: Callable[[str], list[int]], parts: Iterable[str], window: int = _WINDOW
) -> Iterator[list[int]]:
    """Ids of a text, some at a time; together they are those of the whole text.

    Where no start does (as in a run without end that the tokenizer cuts by hundreds), the text is cut hard, and a
    warning says that counts may differ there.

    Args:
        encode: Text to ids, without special tokens.
        parts: The text, wherever it is cut.
        window: Characters that are encoded at once.

    Example:
        >>> list(encoded_parts(lambda text: [ord(c) for c in text], ["ab", "c"]))
        [[97, 98, 99]]
    """
    text, begin, read = "", 0, 0
    skipped: list[int] = []
    hard: list[int] = []
    for part in parts:
        text, begin, read = text[begin:] + part, 0, read + begin
        while len(text) - begin > window:
            some = text[begin : begin + window]
            ids = encode(some)
            if ids[: len(skipped)] != skipped:  # they depended on what comes after the overlap
                hard.append(read + begin)
            joint = _joint(encode, some, ids)
            if joint is None:
                start = window - window // _OVERLAPS[0][0]
                hard.append(read + begin + start)
                yield encode(some[:start])[len(skipped) :]
                begin, skipped = begin + start, []
            else:
                start, agreed, following = joint
                yield ids[len(skipped) : len(ids) - agreed]
                begin, skipped = begin + start, following
    yield encode(text[begin:])[len(skipped) :]
    if hard:
        log.warning(
            "a text was cut at %d places, the first after %d characters, where its tokens go on too evenly to find "
            "where one begins: counts may differ there by a few tokens", len(hard), hard[0],
        )  # fmt: skip


def counted_ids(encode: Callable[[str], list[int]], parts: Iterable[str], n: int) -> Counts:
    """How often each of ``n`` ids occurs in a text that comes in parts."""
    counts = np.zeros(n, dtype=np.int64)
    for ids in encoded_parts(encode, parts):
        counts += np.bincount(np.array(ids, dtype=np.int64), minlength=n)
    return counts


def _joint(encode: Callable[[str], list[int]], window: str, ids: list[int]) -> tuple[int, int, list[int]] | None:
    """Where the next window may start, how many ids of this one it brings again, and which it begins with instead."""
    for share, places in _OVERLAPS:
        overlap = len(window) // share
        first = len(window) - overlap
        for start in range(first, first + min(places, overlap // 2)):
            again = encode(window[start:])
            agreed = _common_end(ids, again)
            if 2 * agreed >= len(again):  # what differs is at the beginning, far from where both are cut off
                return start, agreed, again[: len(again) - agreed]
    return None


def _common_end(left: list[int], right: list[int]) -> int:
    """How many ids are the same from the end."""
    length = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        length += 1
    return length
