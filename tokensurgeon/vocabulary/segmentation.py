"""Cut the text of the donor's tokens as the base does."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

from tokensurgeon.vocabulary import Vocabulary

__all__ = ["base_pieces", "cutter"]

_CONTEXTS = ("", "\n", "a", "(", "7", "ж", "q")
"""A tokenizer that puts a space before every text shows a token's own pieces only after something."""


def base_pieces(base: Vocabulary, donor: Vocabulary, ids: Iterable[int], limit: int) -> list[list[int]]:
    """Base ids whose bytes are those of each donor token, or those that the base's own normalisation makes of them.

    Args:
        base: Cuts the text.
        donor: Its tokens are cut.
        ids: Donor ids.
        limit: Only base ids below this, the rows of the base's embedding.

    Returns:
        By donor id in the order given. Bytes that the base can spell in no way are left out, so that
        a list may be empty.
    """
    single, cut = _single_bytes(base, limit), cutter(base)
    found = []
    for token_id in ids:
        key = donor.keys[token_id]
        data = key.data if key is not None else b""
        pieces: list[int] = []
        for part in _runs(data):
            text = cut(part)
            pieces += text if text is not None else [single[byte] for byte in part if byte in single]
        found.append([piece for piece in pieces if piece < limit])
    return found


def cutter(base: Vocabulary) -> Callable[[bytes], list[int] | None]:
    """What gives a vocabulary's ids for bytes, as it cuts them within a text; None for what it cannot spell so."""
    before = {context: base.encode(context) for context in _CONTEXTS}
    return lambda data: _cut(base, data, before) if _is_utf8(data) else None


def _cut(base: Vocabulary, data: bytes, before: dict[str, list[int]]) -> list[int] | None:
    """The base's ids for valid UTF-8, or None if they do not spell it.

    Exactly these bytes if some context gives them; else what the base makes of the text where it writes all in lower
    case, takes accents off, or has no spaces of its own.
    """
    alike = None
    for context, ids in before.items():
        whole = base.encode(context + data.decode())
        pieces = whole[len(ids) :]
        keys = [base.keys[piece] for piece in pieces]
        spelled = b"".join(key.data for key in keys if key is not None)
        if whole[: len(ids)] != ids:
            continue
        if spelled == data:
            return pieces
        if alike is None and pieces and all(key and key.is_text for key in keys) and _folded(spelled) == _folded(data):
            alike = pieces
    return alike


def _folded(data: bytes) -> str:
    """What is left of a text when case, accents and spaces do not count."""
    parts = unicodedata.normalize("NFKD", data.decode("utf-8", "replace").casefold())
    return "".join(c for c in parts if not c.isspace() and not unicodedata.combining(c))


def _single_bytes(base: Vocabulary, limit: int) -> dict[int, int]:
    """Byte to the base's token for it: one that is emitted where there is one, else a byte-fallback piece."""
    found = {data[0]: token_id for data, token_id in base.text_ids(limit).items() if len(data) == 1}
    for token_id, key in enumerate(base.keys[:limit]):
        if key is not None and key.is_text and len(key.data) == 1:
            found.setdefault(key.data[0], token_id)
    return found


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _runs(data: bytes) -> list[bytes]:
    """Valid UTF-8 as long as possible, and the bytes in between one by one."""
    if _is_utf8(data):
        return [data] if data else []
    parts: list[bytes] = []
    rest = data
    while rest:
        try:
            rest.decode()
            parts.append(rest)
            break
        except UnicodeDecodeError as error:
            if error.start:
                parts.append(rest[: error.start])
            parts.append(rest[error.start : error.start + 1])
            rest = rest[error.start + 1 :]
    return parts
