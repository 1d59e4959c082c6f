"""Find where two tokenizations of one text meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tokensurgeon.vocabulary.vocabulary import Vocabulary

__all__ = ["KINDS", "between_meetings", "meeting_points", "token_bytes"]

KINDS = ("whole", "split", "joined", "mixed")
"""What the right tokenization makes of what the left one has between two meetings."""


def token_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """The text that each id stands for; nothing for control tokens and holes."""
    return [key.data if key is not None and key.is_text else b"" for key in vocabulary.keys]


def meeting_points(left: Sequence[bytes], right: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Positions in two tokenizations at which the same bytes have been read, or the same are still to come.

    Some tokenizers put a space before the text, drop line breaks or case, or read ``</s>`` as a control token. So only
    what both spell alike from the text's beginning, or up to its end, is gone by.

    Args:
        left: Bytes of each token.
        right: Those of the other tokenization of the same text.

    Returns:
        Indices of the last tokens read, in step.
    """
    begins = _common(b"".join(left), b"".join(right))
    ends = _common(b"".join(left)[::-1], b"".join(right)[::-1])
    found: dict[int, int] = {}
    for behind, limit in ((False, begins), (True, ends)):
        a, b = _places(left, behind, limit), _places(right, behind, limit)
        found |= {a[n]: b[n] for n in a.keys() & b.keys()}
    pairs = sorted(found.items())
    return [x for x, _ in pairs], [y for _, y in pairs]


def between_meetings(
    meet: tuple[Sequence[int], Sequence[int]], n_left: int, n_right: int
) -> Iterator[tuple[str, slice, slice]]:
    """What stands between meetings, and what comes behind the last one.

    Args:
        meet: As `meeting_points` gives it.
        n_left: Tokens.
        n_right: Tokens.

    Yields:
        One of `KINDS`, and which tokens of either they are.

    Example:
        >>> [kind for kind, _, _ in between_meetings(([0, 2], [1, 2]), 3, 3)]
        ['split', 'joined']
    """
    here = there = 0
    for i, j in [*zip(*meet, strict=True), (n_left - 1, n_right - 1)]:
        left, right = slice(here, i + 1), slice(there, j + 1)
        here, there = i + 1, j + 1
        shape = left.stop - left.start, right.stop - right.start
        if shape != (0, 0):
            counts = min(shape[0], 2), min(shape[1], 2)
            yield {(1, 1): "whole", (1, 2): "split", (2, 1): "joined"}.get(counts, "mixed"), left, right


def _places(tokens: Sequence[bytes], behind: bool, limit: int) -> dict[int, int]:
    """Token by the bytes read with it, or by those behind it. Of tokens without bytes, the ones nearest to the text."""
    ends = np.cumsum([len(token) for token in tokens])
    counts = [int(n) for n in (ends[-1] - ends if behind else ends)]
    order = range(len(tokens)) if behind else reversed(range(len(tokens)))
    return {counts[i]: i for i in order if counts[i] <= limit and (behind or counts[i])}


def _common(a: bytes, b: bytes) -> int:
    """Bytes that two texts begin with both."""
    n = min(len(a), len(b))
    x, y = (np.frombuffer(t, np.uint8, n) for t in (a, b))
    other = np.flatnonzero(x != y)
    return int(other[0]) if len(other) else n
