"""Find where tokens stand side by side that could be one: in a word, between characters that the tokenizer joins."""

from __future__ import annotations

import itertools
import logging
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from tokenizers import Tokenizer

from tokensurgeon.vocabulary.edit.pieces import Word, continuation, is_byte, vocab_of
from tokensurgeon.vocabulary.spelling import byte_alphabet, is_byte_level, space_marks

__all__ = ["added_texts", "counted_words", "own_pieces", "symbols", "words_of"]

log = logging.getLogger(__name__)

_MOST_PIECES = 1_000_000
"""In different words whose occurrences are counted."""

_LONGEST = 256
"""Pieces of a word. A run that goes on is taken for several words."""
_RARE = 1e-4
"""Share of the pieces that must join two kinds of characters for new ones to do so."""


def words_of(spec: Mapping[str, Any], tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Word]:
    """Runs of pieces that may become one, with characters in the place of the bytes that they are spelled in."""
    known, kind, prefix = set(own_pieces(spec)), _kinds(spec), continuation(spec)
    joins, added = _joins(known, kind, prefix), added_texts(spec)
    if not is_byte_level(spec):  # nothing else keeps "word," from becoming a token
        joins -= {("letter", "mark"), ("digit", "mark")}
    fallback = spec["model"]["type"] == "BPE" and bool(spec["model"].get("byte_fallback"))
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        word: list[str] = []
        before = None
        for symbol, place in symbols(zip(encoding.tokens, encoding.word_ids, strict=True)):
            usable = symbol in known or (fallback and len(symbol) == 1 and symbol not in added)
            follows = 0 < len(word) < _LONGEST and place == before and usable
            if follows and (kind(word[-1][-1]), kind(symbol.removeprefix(prefix)[0])) in joins:
                word.append(sys.intern(symbol))
            else:
                if word:
                    yield tuple(word)
                word = [sys.intern(symbol)] if usable else []
            before = place
        if word:
            yield tuple(word)


def counted_words(words: Iterable[Word], most_pieces: int = _MOST_PIECES) -> Counter[Word]:
    """How often each word occurs; of a text with too many different ones, those that are frequent.

    Whenever there are too many, the rarest half is forgotten (as in lossy counting: Manku and Motwani, "Approximate
    frequency counts over data streams", VLDB 2002): a word may then have been seen some times more than it is counted.

    Args:
        words: In the order of the text.
        most_pieces: In all different words together.
    """
    counts: Counter[Word] = Counter()
    pieces, missed = 0, 0
    for word in words:
        if word not in counts:
            pieces += len(word)
        counts[word] += 1
        if pieces <= most_pieces:
            continue
        frequent, pieces = counts.most_common(), 0
        counts = Counter()
        for some, times in frequent:
            if pieces + len(some) > most_pieces // 2:
                missed += times
                break
            counts[some] = times
            pieces += len(some)
    if missed:
        log.warning("the text has too many different words to count all: rare ones may occur %d times more", missed)
    return counts


def symbols(tokens: Iterable[tuple[str, int | None]]) -> Iterator[tuple[str, int | None]]:
    """Tokens, with runs of byte pieces that spell characters as these characters."""
    for in_bytes, run in itertools.groupby(tokens, key=lambda token: is_byte(token[0])):
        some = list(run)
        if not in_bytes:
            yield from some
            continue
        text = bytes(int(piece[3:5], 16) for piece, _ in some).decode("utf-8", "replace")
        yield from ((character, some[0][1]) for character in text)


def own_pieces(spec: Mapping[str, Any]) -> dict[str, int]:
    """Pieces that come out by themselves and can be joined: no bytes, no added tokens, no unknown one."""
    foreign = added_texts(spec) | {spec["model"].get("unk_token")}
    fallback = bool(spec["model"].get("byte_fallback"))
    return {p: i for p, i in vocab_of(spec).items() if p not in foreign and not (fallback and is_byte(p))}


def added_texts(spec: Mapping[str, Any]) -> set[str]:
    """What the added tokens are spelled as; the model may have them or not."""
    return {str(t["content"]) for t in spec.get("added_tokens", [])}


def _joins(pieces: Iterable[str], kind: Callable[[str], str], prefix: str) -> frozenset[Word]:
    """Kinds of characters, left and right, that the tokenizer's own pieces join."""
    pieces = [piece.removeprefix(prefix) for piece in pieces]
    seen = Counter(pair for piece in pieces for pair in set(itertools.pairwise(map(kind, piece))))
    return frozenset(pair for pair, count in seen.items() if count > _RARE * len(pieces))


def _kinds(spec: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that tells the kind of a character of a piece; what is not ASCII in a byte-level one is a letter."""
    byte_level, marks = is_byte_level(spec), space_marks(spec)
    table = byte_alphabet()

    @cache
    def kind(character: str) -> str:
        if byte_level:
            byte = table.get(character, 0x80)
            character = chr(byte) if byte < 0x80 else "a"
        if character == " " or character in marks:
            return "space"
        if character in "\n\r\t":
            return "break"
        if character in "0123456789":
            return "digit"
        return "letter" if unicodedata.category(character)[0] in "LMNC" else "mark"

    return kind
