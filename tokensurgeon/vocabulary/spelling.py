"""Spell a vocabulary entry: from the string in the file to the bytes that it stands for.

The rule is read from the structure of ``tokenizer.json`` (model type, pre-tokenizer, decoder),
never from the name of a tokenizer class:

* byte-level BPE (GPT-2, Llama-3, Qwen, tiktoken): every character of a piece is one byte, through
  GPT-2's table, so that ``Ġ`` is a space and ``é`` the byte 0xE9;
* SentencePiece BPE or Unigram (Llama-2, Gemma, T5): ``▁`` is a space, ``<0x41>`` a single byte;
* WordPiece (BERT): a piece begins a word unless it carries the continuation prefix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.edit.pieces import is_byte

__all__ = ["PieceReader", "byte_alphabet", "piece_reader"]

PieceReader = Callable[[str], bytes]
"""Maps a piece, as spelled in the vocabulary file, to the bytes that it stands for."""

_SPACE_MARK = "▁"


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's table from printable characters to the 256 byte values."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    table.update({chr(256 + i): b for i, b in enumerate(others)})
    return table


def piece_reader(spec: Mapping[str, Any]) -> PieceReader:
    """Choose the reading rule for a parsed ``tokenizer.json``.

    Args:
        spec: The parsed file.

    Raises:
        InputError: If the model is neither BPE, Unigram nor WordPiece.
    """
    model = spec["model"]
    kind = model.get("type")
    components = {c.get("type"): c for part in _PARTS for c in _walk(spec.get(part))}
    if kind == "WordPiece":
        return _wordpiece(model.get("continuing_subword_prefix", "##"))
    if kind not in {"BPE", "Unigram"}:
        raise InputError(
            f"tokenizer model type is {kind!r}; tokensurgeon reads BPE, Unigram and WordPiece. "
            "Convert the tokenizer to one of these first"
        )
    if "ByteLevel" in components:
        return _byte_level
    suffix = model.get("end_of_word_suffix") or ""
    mark = _SPACE_MARK if _SPACE_MARK in json.dumps(list(components.values()), ensure_ascii=False) else ""
    fallback = bool(model.get("byte_fallback")) or "ByteFallback" in components
    return _sentencepiece(mark, suffix, fallback)


_PARTS = ("normalizer", "pre_tokenizer", "decoder")


def _walk(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every component of a (possibly nested) tokenizer.json section."""
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


def _byte_level(piece: str) -> bytes:
    table = byte_alphabet()
    try:
        return bytes(table[ch] for ch in piece)
    except KeyError:  # an added token, spelled as itself
        return piece.encode()


def _sentencepiece(mark: str, suffix: str, fallback: bool) -> PieceReader:
    def read(piece: str) -> bytes:
        if fallback and is_byte(piece):
            return bytes([int(piece[3:5], 16)])
        if suffix and piece.endswith(suffix):
            piece = piece.removesuffix(suffix) + " "
        return (piece.replace(mark, " ") if mark else piece).encode()

    return read


def _wordpiece(prefix: str) -> PieceReader:
    def read(piece: str) -> bytes:
        if prefix and piece.startswith(prefix) and piece != prefix:
            return piece.removeprefix(prefix).encode()
        # A word follows a space in running text; punctuation and ideographs stand alone.
        starts_word = piece[:1].isalnum() and not "\u2e80" <= piece[:1] <= "\u9fff"
        return (" " + piece if starts_word else piece).encode()

    return read
