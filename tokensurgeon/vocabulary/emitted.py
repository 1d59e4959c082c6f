"""Find the ids that a tokenizer ever emits, by encoding every token's text alone and between others."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tokensurgeon.vocabulary.edit.pieces import continuation, merge_ranks, merged
from tokensurgeon.vocabulary.spelling import is_byte_level

__all__ = ["Flags", "emits", "find_emitted"]

Flags = np.ndarray[Any, np.dtype[np.bool_]]

_CONTEXTS = (
    ("", ""), ("a", ""), ("\n", ""), (" ", " "), ("7", ""), ("(", ""), ("ж", ""), ("z", ""), ("q", ""),
    ("", "a"), ("", "\n"), ("", "."), ("a", "a"), ("(", ")"), (".", "."), ("7", "7"), ("-", "-"), ("'", "'"),
    ("한", "한"), ("的", "的"),
)  # fmt: skip
"""What stands before and behind a token. It may be emitted only after something: a word piece after a word's
beginning, a word without a leading space in a tokenizer that adds one at the start of the text; or only before
something: a word's beginning, an added token that must be a whole word."""
_LETTERS = tuple((letter, "") for letter in "bcdefghijklmnoprstuvwxyBKX0,éя")
"""More beginnings of words, for pieces that only go on with one: the longest piece that fits may take both."""
_CACHED = 10_000
"""Words that a tokenizer keeps unless it is told otherwise."""
_RUN = 16
"""Characters that are encoded side by side, to see which byte tokens their spellings need."""


def find_emitted(tokenizer: Tokenizer, spec: Mapping[str, Any], texts: Mapping[int, bytes], size: int) -> Flags:
    """Mark every id that comes out of one of many texts: those of all tokens, in contexts until each has come out.

    Args:
        tokenizer: Without truncation, padding and dropout.
        spec: The parsed ``tokenizer.json``.
        texts: By id, the bytes that it stands for.
        size: Highest id plus one.

    Returns:
        (size,) True where the id comes out. A token that is a part of a character's bytes cannot be looked for in
        every text; in a byte-level tokenizer it counts as emitted if its own merges make it.
    """
    emitted = np.zeros(size, dtype=np.bool_)
    pending: dict[int, str] = {}
    parts: list[int] = []
    for token_id, data in texts.items():
        try:
            pending[token_id] = data.decode()
        except UnicodeDecodeError:
            if _occurs_in_utf8(data):
                parts.append(token_id)
    with _uncached(tokenizer):
        for before, behind in (*_CONTEXTS, *(_LETTERS if continuation(spec) else ())):
            _mark(emitted, tokenizer, [before + text + behind for text in pending.values()])
            pending = {token_id: text for token_id, text in pending.items() if not emitted[token_id]}
        if parts:
            _mark(emitted, tokenizer, _all_characters())
    if not parts:
        return emitted
    if is_byte_level(spec):
        emitted[_made_by_merges(tokenizer, spec, [i for i in parts if not emitted[i]])] = True
    return emitted


def emits(tokenizer: Tokenizer, data: bytes, token_id: int) -> bool:
    """Whether a text, alone or between others, has the id come out."""
    text = data.decode("utf-8", "replace")
    tried = [before + text + behind for before, behind in _CONTEXTS]
    return any(token_id in encoding.ids for encoding in tokenizer.encode_batch_fast(tried, add_special_tokens=False))


@contextmanager
def _uncached(tokenizer: Tokenizer) -> Iterator[None]:
    """Keep words of which none comes twice out of the tokenizer's cache, which some versions never free (17 MB)."""
    resize = getattr(tokenizer.model, "_resize_cache", None)  # models of some kinds have none
    if resize is None:
        yield
        return
    resize(0)
    try:
        yield
    finally:
        resize(_CACHED)


def _mark(emitted: Flags, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
    emitted[np.fromiter(ids, dtype=np.int64)] = True


def _all_characters() -> list[str]:
    """Every character of the basic plane and some of each further lead byte's, in short runs."""
    planes = (range(first, first + 256) for first in range(0x10000, 0x110000, 0x4000))
    codes = list(itertools.chain(range(0x80, 0xD800), range(0xE000, 0x10000), *planes))
    return ["".join(map(chr, codes[first : first + _RUN])) for first in range(0, len(codes), _RUN)]


def _made_by_merges(tokenizer: Tokenizer, spec: Mapping[str, Any], parts: Iterable[int]) -> list[int]:
    """Those of the ids that come out of their own piece, even if a word that is a token needed no merges."""
    pieces = {i: str(tokenizer.model.id_to_token(i)) for i in parts}
    if not spec["model"].get("ignore_merges"):
        return [i for i, piece in pieces.items() if [t.id for t in tokenizer.model.tokenize(piece)] == [i]]
    ranks = merge_ranks(spec)  # no part of a character is ever a word
    return [i for i, piece in pieces.items() if merged(piece, ranks)[0] == [piece]]


def _occurs_in_utf8(data: bytes) -> bool:
    """Whether the bytes can stand somewhere inside valid UTF-8 text."""
    body = data
    while body and len(data) - len(body) < 3 and 0x80 <= body[0] < 0xC0:
        body = body[1:]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body, final=False)
    except UnicodeDecodeError:
        return False
    return True
