"""Divide text into what is trained on, what is held out of it, and text of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tokensurgeon.checkpoint.text import read_text
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.texts import Text, TextPieces, open_texts, python_text, split_bytes

__all__ = ["divide"]

_HELD_OUT = 8192
_PYTHON_BYTES = 1 << 20


def divide(paths: list[Path], size: int, weights: Sequence[float] = ()) -> tuple[TextPieces, list[str], list[str]]:
    """Pieces to train on, pieces held out from all over the same text, and pieces of another kind of text.

    Args:
        paths: Files to train on; none means Python's documentation.
        size: Bytes of a piece.
        weights: One per file: shares of what is held out; none takes it from all alike.

    Returns:
        Those to train on are read when they are asked for. The other kind is Python's documentation, or Python's
        source code where the documentation is trained on.

    Raises:
        InputError: If there is too little text.
    """
    own = (Text.of(python_text(_PYTHON_BYTES, i)) for i in range(3))
    pieces = TextPieces.of(open_texts(paths).values() if paths else own, size)
    if len(pieces) < 4:
        raise InputError(f"the text has {len(pieces)} pieces of {size} bytes, and 4 are needed. Give more --text")
    n = max(1, min(_HELD_OUT // size, len(pieces) // 4))
    held = set[int]()
    for number, weight in enumerate(weights or [1.0]):
        of_it = np.flatnonzero(pieces.places[:, 0] == number) if weights else np.arange(len(pieces))
        if len(of_it) < 4:
            raise InputError(f"{paths[number]} has {len(of_it)} pieces of {size} bytes; a text with a weight needs 4")
        share = max(1, min(round(n * weight / sum(weights or [1.0])), len(of_it) // 4))
        held |= set(of_it[len(of_it) // (2 * share) :: len(of_it) // share][: share if weights else None].tolist())
    other = python_text(_HELD_OUT, 3) if paths else _source_code()
    return (
        pieces.without(held),
        [pieces[i] for i in sorted(held)],
        split_bytes(other, size)[: max(1, _HELD_OUT // size)],
    )


def _source_code() -> str:
    import textwrap

    return read_text(Path(textwrap.__file__))[:_HELD_OUT]
