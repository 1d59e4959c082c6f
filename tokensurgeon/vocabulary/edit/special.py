"""Add special tokens to a tokenizer: literals that are looked for in a text before anything else is cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary.edit.pieces import vocab_of
from tokensurgeon.vocabulary.spelling import piece_reader

__all__ = ["special_spec"]

log = logging.getLogger(__name__)

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def special_spec(
    spec: Mapping[str, Any], literals: Iterable[str], first: int
) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
    """``tokenizer.json`` with more special tokens.

    Literals that are special already are left out, with a warning. They are pieces of the model too, which so gives
    them their ids whatever added tokens there are besides; no merge makes them.

    Args:
        spec: The parsed file; its model has every added token, as `tokensurgeon.vocabulary.edit.add.extended_spec`
            sees to.
        literals: Such as ``<think>``.
        first: The first new id.

    Returns:
        The new content; the ids of literals that no token had, which are ``first`` and up; and those of literals that
        were ordinary tokens and are special now.

    Raises:
        InputError: If a literal is blank, or the vocabulary spells another text with it.
    """
    vocab, read = vocab_of(spec), piece_reader(spec)
    entries = {str(token["content"]): dict(token) for token in spec.get("added_tokens", [])}
    new: dict[str, int] = {}
    promoted: dict[str, int] = {}
    for literal in literals:
        if not literal.strip():
            raise InputError(f"special token {literal!r} is blank; it would be found in every text")
        entry = entries.get(literal)
        if entry is not None and entry["special"]:
            log.warning("special token %r: the model has it already; it is left as it is", literal)
            continue
        if entry is not None:
            promoted[literal] = int(entry["id"])
        elif literal in vocab:
            if read(literal) != literal.encode():
                raise InputError(
                    f"special token {literal!r}: id {vocab[literal]} is spelled so in the vocabulary, where it stands "
                    f"for {read(literal).decode(errors='replace')!r}. Choose another literal"
                )
            promoted[literal] = vocab[literal]
        else:
            new[literal] = first + len(new)
        token_id = promoted.get(literal, new.get(literal))
        entries[literal] = _FLAGS | {"id": token_id, "content": literal} | (entry or {}) | {"special": True}
    model = dict(spec["model"])
    if model["type"] == "Unigram":
        lowest = min(score for _, score in model["vocab"])
        model["vocab"] = [*model["vocab"], *([literal, lowest] for literal in new)]
    else:
        model["vocab"] = vocab | new
    added = sorted(entries.values(), key=lambda token: int(token["id"]))
    return dict(spec) | {"model": model, "added_tokens": added}, new, promoted
