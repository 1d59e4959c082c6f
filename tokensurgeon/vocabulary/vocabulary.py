"""Read a tokenizer's vocabulary as bytes and roles, with the tokens that it can really emit marked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.emitted import Flags, emits, find_emitted
from tokensurgeon.vocabulary.markers import MARKER
from tokensurgeon.vocabulary.plain import plain_tokenizer
from tokensurgeon.vocabulary.roles import Roles, find_roles
from tokensurgeon.vocabulary.spelling import piece_reader
from tokensurgeon.vocabulary.token import MOST_IDS, NEVER_PREDICTED, STRUCTURE, Role, TokenKey
from tokensurgeon.vocabulary.visible import quoted, visible

__all__ = ["Remembered", "Vocabulary", "refuse_far_ids"]

Remembered = Callable[[str, int, Callable[[], Flags]], Flags]
"""Called with a digest of what decides some flags, with their number and with what finds them; gives them."""

_SHOWN = 200
"""Characters of a token: longer ones are made to flood a screen."""
_PROBE = "numbers and other words are read as they are written"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every id of a tokenizer: what it stands for and whether it is ever emitted.

    Attributes:
        keys: By id; None where no token has this id.
        pieces: By id; the token as spelled in the vocabulary file, None for a hole.
        canonical: (n_ids,) bool. True where the tokenizer emits the id for some text: its own bytes, alone or
            between others. A byte-fallback ``<0x39>`` beside a token ``9`` is not canonical. Control tokens that
            are declared, or put around texts, count as canonical.
        added: Ids of added tokens, control or not.
        roles: What its control tokens are for.
        encode: Text to ids, without special tokens.
        decode: Ids to text, special tokens kept.
    """

    keys: tuple[TokenKey | None, ...]
    pieces: tuple[str | None, ...]
    canonical: np.ndarray[Any, np.dtype[np.bool_]]
    added: frozenset[int]
    roles: Roles
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
        remembered: Remembered | None = None,
    ) -> Vocabulary:
        """Read a fast tokenizer.

        Args:
            tokenizer: A ``tokenizers.Tokenizer``, or a transformers tokenizer that wraps one.
            declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.
            chat_template: The chat template; shows which tokens open and close a turn.
            remembered: Keeps which ids are emitted, which takes a second or two of a large tokenizer.

        Raises:
            InputError: If the tokenizer's layout is not one that can be read as bytes.
        """
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        written = tokenizer.to_str()
        spec = json.loads(written)
        read = piece_reader(spec)
        plain = plain_tokenizer(tokenizer)
        in_model = list(_own_entries(spec["model"]))
        added = {int(t["id"]): t for t in spec.get("added_tokens", [])}
        entries = [*in_model, *((str(t["content"]), i) for i, t in added.items())]
        refuse_far_ids(entries)
        _refuse_shared_ids(plain, spec["model"]["vocab"])
        pieces = _by_id(entries)
        roles = _with_unknown(find_roles(plain, declared or {}, chat_template), spec["model"])
        special = {i for i, t in added.items() if t["special"]}
        inserted = {*roles.of(*STRUCTURE, *NEVER_PREDICTED), *_inserted(spec.get("post_processor"))}
        if beyond := [i for i in sorted(inserted) if i >= len(pieces)]:
            raise InputError(
                f"it puts id {beyond[0]} around texts, and has {len(pieces)} ids. Correct its tokenizer.json"
            )

        role_of: dict[int, Role] = {}
        for role in Role:
            for token_id in roles.ids.get(role, ()):
                if token_id in inserted or token_id in special:
                    role_of.setdefault(token_id, role)
        for token_id in (*sorted(inserted), *special):
            role_of.setdefault(token_id, Role.CONTROL)
        for token_id in inserted - added.keys():  # some models pad with "!", which is a token of their text as well
            declared_piece = str(pieces[token_id])
            if not MARKER.fullmatch(declared_piece) and emits(plain, read(declared_piece), token_id):
                del role_of[token_id]

        keys: list[TokenKey | None] = [None] * len(pieces)
        for token_id, piece in enumerate(pieces):
            if piece is not None:
                use = role_of.get(token_id)
                keys[token_id] = TokenKey(read(piece) if use is None else piece.encode(), use)
        spelled = {i for _, i in in_model}
        for token_id in added:  # the tokenizer finds added tokens by their literal text
            key, literal = keys[token_id], str(pieces[token_id]).encode()
            if key and key.data != literal and not (token_id in spelled and emits(plain, key.data, token_id)):
                keys[token_id] = TokenKey(literal)

        texts = {i: key.data for i, key in enumerate(keys) if key}
        find = partial(find_emitted, plain, spec, texts, len(keys))
        canonical = find() if remembered is None else remembered(_digest(written, texts), len(keys), find)
        canonical[[i for i in inserted if i in role_of]] = True
        _refuse_other_text(plain, [None if i in roles.ids.get(Role.UNK, ()) else key for i, key in enumerate(keys)])
        return cls(
            keys=tuple(keys),
            pieces=tuple(pieces),
            canonical=canonical,
            added=frozenset(added),
            roles=roles,
            encode=lambda text: list(plain.encode_batch_fast([text], add_special_tokens=False)[0].ids),  # no offsets
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
        return list(self.roles.played.get(token_id, ()))

    def describe(self, token_id: int) -> str:
        """A token for people: its text in quotes, or its bytes, or its literal; visible, and long ones cut."""
        key = self.keys[token_id] if token_id < len(self.keys) else None
        if key is None:
            return f"#{token_id} (no token)"
        try:
            text = key.data.decode()
        except UnicodeDecodeError:
            return repr(key.data[:_SHOWN]) + ("…" if len(key.data) > _SHOWN else "")
        spelled = quoted(text[:_SHOWN]) if key.is_text else visible(text[:_SHOWN])
        return spelled + ("…" if len(text) > _SHOWN else "")


def refuse_far_ids(entries: Iterable[tuple[str, int]]) -> None:
    """Refuse tokens and ids of which one is so high that tables by id would take all memory.

    Raises:
        InputError: With the token and its id.
    """
    token, token_id = max(entries, key=itemgetter(1), default=("", -1))
    if token_id >= MOST_IDS:
        raise InputError(
            f"its token {token[:40]!r} has id {token_id}, and no honest vocabulary has {MOST_IDS:,} ids. Correct its "
            "tokenizer.json"
        )


def _own_entries(model: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """The model's own pieces and their ids. A list may hold a piece twice: one of both never comes out."""
    vocab = model["vocab"]
    return vocab.items() if isinstance(vocab, Mapping) else ((str(entry[0]), i) for i, entry in enumerate(vocab))


def _by_id(entries: Sequence[tuple[str, int]]) -> list[str | None]:
    pieces: list[str | None] = [None] * (max((i for _, i in entries), default=-1) + 1)
    for piece, token_id in entries:
        pieces[token_id] = piece
    return pieces


def _refuse_shared_ids(tokenizer: Tokenizer, vocab: Mapping[str, int] | Sequence[Any]) -> None:
    """Refuse a model that has one id for two pieces; as it is written out again, it shows only one of both."""
    if tokenizer.get_vocab_size(with_added_tokens=False) == len(vocab) or not isinstance(vocab, Mapping):
        return
    seen: dict[int, str] = {}
    for piece, token_id in sorted(tokenizer.get_vocab(with_added_tokens=False).items()):
        if token_id in seen:
            raise InputError(
                f"pieces {seen[token_id][:40]!r} and {piece[:40]!r} of the tokenizer both have id {token_id}; an id "
                "stands for one piece. Correct its tokenizer.json"
            )
        seen[token_id] = piece


def _with_unknown(roles: Roles, model: Mapping[str, Any]) -> Roles:
    """Roles, with the token that the model itself puts where it knows none, declared or not."""
    unknown, vocab = model.get("unk_id"), model["vocab"]
    if isinstance(vocab, Mapping):
        unknown = vocab.get(model.get("unk_token"))
    return roles if unknown is None else replace(roles, ids={Role.UNK: (int(unknown),), **roles.ids})


def _inserted(part: Any) -> Iterator[int]:
    """Ids that the post-processor puts around texts: in lists ``ids``, or pairs ``[token, id]``."""
    if isinstance(part, list):
        for item in part:
            yield from _inserted(item)
    elif isinstance(part, Mapping):
        for name, value in part.items():
            if name == "ids":
                yield from value
            elif name in ("sep", "cls") and isinstance(value, list):
                yield value[1]
            else:
                yield from _inserted(value)


def _refuse_other_text(tokenizer: Tokenizer, keys: Sequence[TokenKey | None]) -> None:
    """Refuse a tokenizer whose tokens, as they are read, spell what the text does not hold.

    Raises:
        InputError: If the reading rule is not the tokenizer's.
    """
    ids = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    tokenizer.decode(ids)  # raises what it has to say
    found = [keys[i] for i in ids]
    text = b"".join(key.data for key in found if key and key.is_text).decode("utf-8", "replace").casefold()
    rest = iter(_PROBE)
    if not all(character in rest for character in text if not character.isspace()):
        raise InputError(
            f"the tokenizer's tokens for {_PROBE!r} read as {text!r}: their pieces are spelled in a way that "
            "tokensurgeon does not know. Convert the tokenizer to byte-level or SentencePiece spelling first"
        )


def _digest(written: str, texts: Mapping[int, bytes]) -> str:
    """Of a tokenizer and the bytes of its ids."""
    found = hashlib.sha256(written.encode())
    ids, lengths = (np.fromiter(values, np.int64, len(texts)) for values in (texts, map(len, texts.values())))
    found.update(np.stack([ids, lengths], axis=1).tobytes())
    found.update(b"".join(texts.values()))
    return found.hexdigest()
