"""Bring tokenizer.json and the control tokens that only tokenizer_config.json declares together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tokensurgeon.checkpoint.ids import SPECIAL
from tokensurgeon.vocabulary.markers import MARKER
from tokensurgeon.vocabulary.token import MOST_IDS, literal_of

__all__ = ["completed", "without_unknown"]

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_ENTRIES = "added_tokens_decoder"
_DIGITS = len(str(MOST_IDS))
_RESERVED = re.compile(r".*(unused|reserved).*", re.IGNORECASE)


def completed(tokenizer: Tokenizer, declared: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer with control tokens that ``tokenizer.json`` leaves out; None where it has them all.

    Without them ``</s>`` in a text is cut into pieces; AutoTokenizer adds them. An entry counts where the tokenizer has
    the token at the same id, would give it that id, or has a reserved piece there (InternLM's ``[UNUSED_TOKEN_146]`` is
    ``<|im_start|>``); a declared special token where it is a marker of the vocabulary.

    Args:
        tokenizer: As ``tokenizer.json`` has it.
        declared: ``tokenizer_config.json`` merged with ``special_tokens_map.json``.

    Returns:
        A new tokenizer, with more tokens.
    """
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing: list[AddedToken] = []
    renamed: dict[str, str] = {}
    following = tokenizer.get_vocab_size(with_added_tokens=True)
    for number, entry in sorted(_entries(declared).items()):
        literal = entry["content"]
        if literal in known:
            continue
        present, there = tokenizer.token_to_id(literal), tokenizer.id_to_token(number)
        if present is None and there is not None and _RESERVED.fullmatch(there):
            renamed[there] = literal
        elif present is None and number == following:
            following += 1
        elif present != number:
            continue
        known.add(literal)
        missing.append(AddedToken(literal, **{flag: bool(entry.get(flag)) for flag in _FLAGS}))
    for setting in SPECIAL:
        literal = literal_of(declared.get(setting.removesuffix("_id"))) or ""
        if literal not in known and MARKER.fullmatch(literal) and tokenizer.token_to_id(literal) is not None:
            known.add(literal)
            missing.append(AddedToken(literal, special=True, normalized=False))
    if not missing:
        return None
    whole = _renamed(tokenizer, renamed) if renamed else Tokenizer.from_str(tokenizer.to_str())
    whole.add_tokens(missing)
    return whole


def without_unknown(settings: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Settings without control tokens that the tokenizer lacks: AutoTokenizer would give them ids that have no row."""

    def has(token: object) -> bool:
        return tokenizer.token_to_id(literal_of(token) or "") is not None

    kept = dict(settings)
    for name in _LISTS:
        if isinstance(tokens := kept.get(name), list):
            kept[name] = [token for token in tokens if has(token)]
        elif isinstance(tokens, Mapping):
            kept[name] = {key: token for key, token in tokens.items() if has(token)}
    if isinstance(kept.get(_ENTRIES), Mapping):
        wrong = {str(i) for i, entry in _entries(kept).items() if tokenizer.token_to_id(entry["content"]) != i}
        kept[_ENTRIES] = {key: entry for key, entry in kept[_ENTRIES].items() if key not in wrong}
    for name in (setting.removesuffix("_id") for setting in SPECIAL):
        if kept.get(name) is not None and not has(kept[name]):
            del kept[name]
    return kept


def _entries(declared: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """``added_tokens_decoder`` by id, as far as it is what it should be."""
    entries = declared.get(_ENTRIES)
    return {
        int(key): entry
        for key, entry in (entries.items() if isinstance(entries, Mapping) else ())
        if _is_id(key) and isinstance(entry, Mapping) and isinstance(entry.get("content"), str)
    }


def _is_id(key: str) -> bool:
    return key.isdecimal() and len(key) <= _DIGITS


def _renamed(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """Reserved pieces under the names that are declared; no merge makes one."""
    spec = json.loads(tokenizer.to_str())
    vocab = spec["model"]["vocab"]
    if isinstance(vocab, Mapping):
        spec["model"]["vocab"] = {names.get(piece, piece): i for piece, i in vocab.items()}
    else:
        spec["model"]["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(spec))
