"""Spell a vocabulary entry: from the string in the file to the bytes that it stands for.

The rule is read from the structure of ``tokenizer.json`` (model type, normalizer, pre-tokenizer, decoder),
never from the name of a tokenizer class:

* byte-level BPE (GPT-2, Llama-3, Qwen, tiktoken): every character of a piece is one byte, through
  GPT-2's table, so that ``Ġ`` is a space and ``é`` the byte 0xE9;
* SentencePiece BPE or Unigram (Llama-2, Gemma, T5): ``▁``, or whatever mark stands there, is a space,
  ``<0x41>`` a single byte;
* a prefix of continuations (BERT's ``##``): a piece without it begins a word;
* a suffix of words (CLIP's ``</w>``): a piece with it ends a word.

Where words are cut at spaces that are then dropped, what begins or ends a word has a space of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.edit.pieces import continuation, is_byte

__all__ = ["PieceReader", "byte_alphabet", "is_byte_level", "piece_reader", "space_marks"]

PieceReader = Callable[[str], bytes]
"""Maps a piece, as spelled in the vocabulary file, to the bytes that it stands for."""

_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_SENTENCEPIECE = "▁"
_AT_SPACES = {"BertPreTokenizer", "CharDelimiterSplit", "Whitespace", "WhitespaceSplit"}
"""Pre-tokenizers that drop the spaces at which they cut."""
_IDEOGRAPHS = (("\u2e80", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))


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
    if kind not in {"BPE", "Unigram", "WordPiece"}:
        raise InputError(
            f"tokenizer model type is {kind!r}; tokensurgeon reads BPE, Unigram and WordPiece. "
            "Convert the tokenizer to one of these first"
        )
    fallback = bool(model.get("byte_fallback")) or "ByteFallback" in {c.get("type") for c in _components(spec)}
    marks = space_marks(spec)
    spell = _byte_level if is_byte_level(spec) else _marked(marks, fallback)
    prefix, suffix = continuation(spec), str(model.get("end_of_word_suffix") or "")
    if not prefix and not suffix:
        return spell
    return _affixed(spell, prefix, suffix, b" " if _drops_spaces(spec) and not marks else b"")


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Whether every character of a piece is one byte, through GPT-2's table."""
    return any(component.get("type") == "ByteLevel" for component in _components(spec))


def space_marks(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands for a space in pieces, such as ``▁``; nothing where they hold spaces, or none are left."""
    found: dict[str, None] = {}
    if _SENTENCEPIECE in json.dumps([spec.get(part) for part in _PARTS], ensure_ascii=False):
        found[_SENTENCEPIECE] = None
    for part in _PARTS:
        for component in _walk(spec.get(part)):
            if component.get("type") == "Metaspace":
                found[str(component["replacement"])] = None
            if component.get("type") == "Replace":
                pattern = component["pattern"].get("String") or component["pattern"].get("Regex")
                pair = (component["content"], pattern) if part == "decoder" else (pattern, component["content"])
                if pair[0] in (" ", r"\s"):
                    found[str(pair[1])] = None
    return tuple(mark for mark in found if mark.strip() and mark != spec["model"].get("end_of_word_suffix"))


def _components(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in _PARTS:
        yield from _walk(spec.get(part))


def _walk(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every component of a (possibly nested) tokenizer.json section."""
    if isinstance(node, Mapping):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


def _drops_spaces(spec: Mapping[str, Any]) -> bool:
    return any(
        c.get("type") in _AT_SPACES or (c.get("type") == "Split" and c.get("behavior") == "Removed")
        for c in _walk(spec.get("pre_tokenizer"))
    )


@cache
def _latin_1() -> dict[int, int]:
    """GPT-2's table for `str.translate`; characters that it does not have become one that is no byte."""
    foreign = dict.fromkeys(range(256), 256)
    return foreign | {ord(character): byte for character, byte in byte_alphabet().items()}


def _byte_level(piece: str) -> bytes:
    try:
        return piece.translate(_latin_1()).encode("latin-1")
    except UnicodeEncodeError:  # an added token, spelled as itself
        return piece.encode()


def _marked(marks: tuple[str, ...], fallback: bool) -> PieceReader:
    def read(piece: str) -> bytes:
        if fallback and is_byte(piece):
            return bytes([int(piece[3:5], 16)])
        for mark in marks:
            piece = piece.replace(mark, " ")
        return piece.encode()

    return read


def _affixed(spell: PieceReader, prefix: str, suffix: str, space: bytes) -> PieceReader:
    def read(piece: str) -> bytes:
        inside = bool(prefix) and piece.startswith(prefix) and piece != prefix
        text = piece.removeprefix(prefix) if inside else piece
        ends = bool(suffix) and text.endswith(suffix) and text != suffix
        data = spell(text.removesuffix(suffix) if ends else text)
        # A word follows a space in running text; punctuation and ideographs stand alone.
        begins = bool(prefix) and not inside and text[:1].isalnum() and not _is_ideograph(text[0])
        return (space if begins else b"") + data + (space if ends else b"")

    return read


def _is_ideograph(character: str) -> bool:
    return any(first <= character <= last for first, last in _IDEOGRAPHS)
