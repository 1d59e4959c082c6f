"""Take the rows of named tokens from where a recipe's ``tokens`` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tokensurgeon.errors import InputError
from tokensurgeon.merging.models import Model
from tokensurgeon.merging.rows import GIVEN, Kind, Kinds, RowChoice

__all__ = ["RowSource", "given_rows", "row_sources"]


class RowSource(NamedTuple):
    """Whose row a token of the output gets.

    Attributes:
        model: As it was given, in its own ids; None for a row of zeros.
        token_id: In that model.
        force: Also where all models know the token; otherwise the method merges their rows then.
    """

    model: Model | None
    token_id: int
    force: bool


def row_sources(tokens: Mapping[str, Any], opened: Mapping[Any, Model]) -> dict[str, RowSource]:
    """What a recipe says of tokens, looked up in its models.

    Args:
        tokens: mergekit's TokenEmbeddingConfig by token.
        opened: The recipe's models by reference.

    Raises:
        InputError: If a model is none of the recipe's, or has no such token.
    """
    found = {}
    for token, said in tokens.items():
        source = said.source
        if getattr(source, "kind", None) == "zero":
            found[token] = RowSource(None, -1, said.force)
            continue
        reference = getattr(source, "model", None) if hasattr(source, "kind") else source
        model = opened.get(reference)
        if model is None:
            raise InputError(
                f"tokenizer: tokens: {token!r} takes a row of {reference}, which the recipe does not merge. Name one "
                f"of {', '.join(map(str, opened))}"
            )
        theirs = getattr(source, "token", None) or token
        token_id = getattr(source, "token_id", None)
        if token_id is None:
            token_id = model.ids.get(theirs)
        if token_id is None:
            raise InputError(f"tokenizer: tokens: {token!r} takes the row of {theirs!r}, and {reference} has none")
        if not 0 <= token_id < model.layout.rows:
            raise InputError(
                f"tokenizer: tokens: {token!r} takes row {token_id} of {reference}, which has {model.layout.rows}"
            )
        found[token] = RowSource(model, token_id, said.force)
    return found


def given_rows(
    choice: RowChoice, kinds: Sequence[Kinds], sources: Mapping[str, RowSource], ids: Mapping[str, int]
) -> tuple[RowChoice, dict[int, RowSource]]:
    """A choice in which named tokens get the rows that were named for them.

    Args:
        choice: Of all rows.
        kinds: One array for each model that takes part.
        sources: By token.
        ids: Of the output's tokens.

    Returns:
        The choice, with `GIVEN` where a named row is taken, and these rows by id.
    """
    known_to_all = np.stack(kinds).max(axis=0) <= Kind.TRAINED
    given = {ids[token]: one for token, one in sources.items() if one.force or not known_to_all[ids[token]]}
    if not given:
        return choice, {}
    taken, came_out = choice.taken.copy(), choice.kinds.copy()
    for token_id, source in given.items():
        taken[token_id], came_out[token_id] = GIVEN, Kind.MADE if source.model is None else Kind.OWN
    return replace(choice, taken=taken, kinds=came_out), given
