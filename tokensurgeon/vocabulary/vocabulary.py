"""Read a tokenizer's vocabulary as bytes and roles, with the tokens that it can really emit marked."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tokensurgeon.vocabulary.roles import find_roles
from tokensurgeon.vocabulary.spelling import piece_reader
from tokensurgeon.vocabulary.token import Role, TokenKey

__all__ = ["Vocabulary"]

# A token may be emitted only after something: a word piece after a word's beginning, a word
# without a leading space in a tokenizer that adds one at the start of the text.
_CONTEXTS = ("", "a", "\n", "z", "7", "q", "(", "ж")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every id of a tokenizer: what it stands for and whether it is ever emitted.

    Attributes:
        keys: By id; None where no token has this id.
        pieces: By id; the token as spelled in the vocabulary file, None for a hole.
        canonical: (n_ids,) bool. True where the tokenizer emits the id when it encodes the
            token's own bytes. A byte-fallback ``<0x39>`` beside a token ``9`` is not canonical.
            Control tokens count as canonical.
        added: Ids of added tokens, control or not.
        roles: Role to id; several roles may share an id.
        encode: Text to ids, without special tokens.
        decode: Ids to text, special tokens kept.
    """

    keys: tuple[TokenKey | None, ...]
    pieces: tuple[str | None, ...]
    canonical: np.ndarray[Any, np.dtype[np.bool_]]
    added: frozenset[int]
    roles: Mapping[Role, int]
    encode: Callable[[str], list[int]] = field(repr=False)
    decode: Callable[[list[int]], str] = field(repr=False)

    def __len__(self) -> int:
        """Highest id plus one."""
        return len(self.keys)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: Tokenizer,
        declared: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> Vocabulary:
        """Read a fast tokenizer.

        Args:
            tokenizer: A ``tokenizers.Tokenizer``, or a transformers tokenizer that wraps one.
            declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
            chat_template: The chat template; shows which tokens open and close a turn.

        Raises:
            InputError: If the tokenizer's layout is not one that can be read as bytes.
        """
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        spec = json.loads(tokenizer.to_str())
        plain = _unbounded(tokenizer, spec)
        read = piece_reader(spec)
        roles = find_roles(tokenizer, declared or {}, chat_template)
        added = {int(t["id"]): t for t in spec.get("added_tokens", [])}
        in_model = tokenizer.get_vocab(with_added_tokens=False)

        role_of: dict[int, Role] = {}
        for role in Role:
            if role in roles:
                role_of.setdefault(roles[role], role)
        for token_id, token in added.items():
            if token["special"]:
                role_of.setdefault(token_id, Role.CONTROL)

        pieces = _by_id(tokenizer.get_vocab(with_added_tokens=True))
        keys: list[TokenKey | None] = [None] * len(pieces)
        for token_id, piece in enumerate(pieces):
            if piece is None:
                continue
            use = role_of.get(token_id)
            spelled_as_itself = use is not None or piece not in in_model
            keys[token_id] = TokenKey(piece.encode() if spelled_as_itself else read(piece), use)

        canonical = _canonical(plain, keys, pieces, is_byte_level=read("Ġ") == b" ")
        for token_id in added:  # the tokenizer finds added tokens by their literal text
            key, piece = keys[token_id], pieces[token_id]
            if not canonical[token_id] and key and piece and key.is_text:
                keys[token_id] = TokenKey(piece.encode())
                canonical[token_id] = plain.encode(piece, add_special_tokens=False).ids == [token_id]
        return cls(
            keys=tuple(keys),
            pieces=tuple(pieces),
            canonical=canonical,
            added=frozenset(added),
            roles=roles,
            encode=lambda text: list(plain.encode(text, add_special_tokens=False).ids),
            decode=lambda ids: str(plain.decode(ids, skip_special_tokens=False)),
        )

    def text_ids(self, limit: int | None = None) -> dict[bytes, int]:
        """Canonical text tokens by their bytes; the lowest id where several stand for the same.

        Args:
            limit: Only ids below this, such as the number of embedding rows.
        """
        found: dict[bytes, int] = {}
        for token_id in np.flatnonzero(self.canonical[:limit]).tolist():
            key = self.keys[token_id]
            if key is not None and key.is_text:
                found.setdefault(key.data, token_id)
        return found

    def literal_ids(self, limit: int | None = None) -> dict[bytes, int]:
        """Added tokens, control or not, by their literal text."""
        found: dict[bytes, int] = {}
        for token_id in sorted(self.added):
            piece = self.pieces[token_id]
            if piece is not None and (limit is None or token_id < limit):
                found.setdefault(piece.encode(), token_id)
        return found

    def roles_of(self, token_id: int) -> list[Role]:
        """All known roles of an id, in order of preference."""
        return [role for role in Role if self.roles.get(role) == token_id]

    def describe(self, token_id: int) -> str:
        """A token for people: its text in quotes, or its bytes, or its literal."""
        key = self.keys[token_id] if token_id < len(self.keys) else None
        if key is None:
            return f"#{token_id} (no token)"
        if not key.is_text:
            return key.data.decode()
        try:
            return repr(key.data.decode())
        except UnicodeDecodeError:
            return repr(key.data)


def _by_id(vocab: Mapping[str, int]) -> list[str | None]:
    pieces: list[str | None] = [None] * (max(vocab.values(), default=-1) + 1)
    for piece, token_id in sorted(vocab.items()):
        pieces[token_id] = piece
    return pieces


def _unbounded(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> Tokenizer:
    """The same tokenizer without truncation and padding."""
    if not (spec.get("truncation") or spec.get("padding")):
        return tokenizer
    return Tokenizer.from_str(json.dumps({**spec, "truncation": None, "padding": None}))


def _canonical(
    tokenizer: Tokenizer,
    keys: list[TokenKey | None],
    pieces: list[str | None],
    is_byte_level: bool,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Encode every token's own bytes and see whether the token comes out."""
    canonical = np.zeros(len(keys), dtype=np.bool_)
    texts: dict[int, str] = {}
    for token_id, key in enumerate(keys):
        if key is None:
            continue
        if not key.is_text:
            canonical[token_id] = True
            continue
        try:
            texts[token_id] = key.data.decode()
        except UnicodeDecodeError:
            canonical[token_id] = _occurs_in_utf8(key.data) and (
                not is_byte_level or [t.id for t in tokenizer.model.tokenize(pieces[token_id])] == [token_id]
            )
    for context in _CONTEXTS:
        before = _ids(tokenizer, [context])[0]
        pending = [i for i in texts if not canonical[i]]
        for token_id, ids in zip(pending, _ids(tokenizer, (context + texts[i] for i in pending)), strict=True):
            canonical[token_id] = ids == [*before, token_id]
    return canonical


def _ids(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


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
