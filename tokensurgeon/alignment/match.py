"""Match a donor's tokens with the base's, by bytes and by role: the plan for every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokensurgeon.alignment.plan import Alignment, Ids, Provenance, RowPlan
from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary import Role, Vocabulary

__all__ = ["align"]

PLACEHOLDER_FAMILY = 8
"""Control tokens that differ in a number only, such as ``<unused17>``, are placeholders from this many on."""


def align(
    base: Vocabulary,
    donor: Vocabulary,
    *,
    n_rows: int | None = None,
    base_rows: int | None = None,
    donor_rows: int | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Alignment:
    """Match the donor's tokens with the base's by bytes and by role.

    Only canonical tokens match: those that a tokenizer emits when it encodes their own bytes.

    Args:
        base: Vocabulary of the model that keeps its body.
        donor: Vocabulary that the output will have.
        n_rows: Rows of the output; by default ``len(donor)``.
        base_rows: Rows of the base's embedding; ids beyond have no row to copy.
        donor_rows: Rows of the donor's embedding; tokens beyond cannot be reconstructed.
        overrides: Donor token (its text, literal or piece) to the base text that it stands for.

    Returns:
        The alignment, with ``n_rows`` rows.

    Raises:
        InputError: If the vocabularies share nothing, if ids do not fit into ``n_rows``, or if an
            override names a token that does not exist.

    Example:
        >>> import tokensurgeon
        >>> from tokenizers import Tokenizer, decoders, models
        >>> tokenizers = [
        ...     Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),
        ...     Tokenizer(models.BPE({"b": 0, "a": 1, "ba": 2}, [("b", "a")])),
        ... ]
        >>> for tokenizer in tokenizers:
        ...     tokenizer.decoder = decoders.ByteLevel()
        >>> base, donor = map(tokensurgeon.Vocabulary.from_tokenizer, tokenizers)
        >>> tokensurgeon.align(base, donor).plan.source.tolist()  # ids of "b" and "a"; "ba" is new
        [1, 0, -1]
    """
    n_rows = len(donor) if n_rows is None else n_rows
    base_rows = len(base) if base_rows is None else base_rows
    donor_rows = n_rows if donor_rows is None else donor_rows
    beyond = [i for i in range(n_rows, len(donor)) if donor.keys[i] is not None]
    if beyond:
        raise InputError(
            f"donor token {donor.describe(beyond[0])} has id {beyond[0]}, but the output has {n_rows} rows "
            f"(the donor's config.vocab_size); {len(beyond)} ids do not fit. "
            "Use --pad-to-multiple-of 64 to make room"
        )

    provenance = np.full(n_rows, Provenance.PADDING, dtype=np.int8)
    source = np.full(n_rows, -1, dtype=np.int64)
    text, literal = base.text_ids(base_rows), base.literal_ids(base_rows)
    control: list[int] = []
    for token_id, key in enumerate(donor.keys):
        if key is None:
            continue
        if key.is_text:
            match = text.get(key.data)
            if match is None and token_id in donor.added:
                match = literal.get(key.data)
            why = Provenance.COPIED
        else:
            match = _same_role(token_id, key.data, donor, base, literal, base_rows)
            why = Provenance.ROLE
            control.append(token_id)
        if not donor.canonical[token_id]:
            provenance[token_id] = Provenance.UNREACHABLE
        elif match is not None:
            provenance[token_id], source[token_id] = why, match
        elif token_id < donor_rows:
            provenance[token_id] = Provenance.RECONSTRUCTED

    for token_id in _placeholders(donor, provenance):
        provenance[token_id] = Provenance.UNREACHABLE
    if source.max(initial=-1) < 0:
        raise InputError(
            f"the two vocabularies ({len(base)} and {len(donor)} tokens) share no token, so there is "
            "nothing to reconstruct from. Check that BASE and DONOR are the models you mean"
        )
    mapped = _apply_overrides(overrides or {}, base, donor, base_rows, provenance, source)
    done = {Provenance.ROLE, Provenance.OVERRIDE}
    unmapped = tuple(i for i in control if provenance[i] not in done)
    return Alignment(RowPlan(provenance, source), mapped, unmapped)


def _same_role(
    token_id: int,
    data: bytes,
    donor: Vocabulary,
    base: Vocabulary,
    literal: Mapping[bytes, int],
    base_rows: int,
) -> int | None:
    """The base id that plays a control token's first role that the base has, or has its literal."""
    mine = donor.roles_of(token_id)
    for role in mine:
        match = base.roles.get(role)
        if match is None or match >= base_rows:
            continue
        if role in _NEVER_PREDICTED and base.roles_of(match) != [role]:
            continue  # a second copy of the base's EOS would take half of its probability
        return match
    match = literal.get(data)
    theirs = base.roles_of(match) if match is not None else []
    return None if theirs and not set(theirs) & (set(mine) - _NEVER_PREDICTED) else match


_NEVER_PREDICTED = frozenset({Role.UNK, Role.MASK, Role.PAD})
_NUMBER = re.compile(rb"\d+")
_MARKER = re.compile(rb"[<\[].*[>\]]", re.DOTALL)


def _placeholders(donor: Vocabulary, provenance: np.ndarray[Any, np.dtype[np.int8]]) -> list[int]:
    """Unmatched markers that exist in numbers only, and padding tokens: never to be predicted."""
    open_ids = [i for i in sorted(donor.added) if provenance[i] == Provenance.RECONSTRUCTED]
    families: dict[bytes, list[int]] = {}
    for token_id in open_ids:
        key = donor.keys[token_id]
        if key is None or (key.is_text and not _MARKER.fullmatch(key.data)):
            continue  # text that was added, such as years, is text
        if _NUMBER.search(key.data):
            families.setdefault(_NUMBER.sub(b"0", key.data), []).append(token_id)
    found = [i for family in families.values() if len(family) >= PLACEHOLDER_FAMILY for i in family]
    return found + [i for i in open_ids if donor.roles_of(i) == [Role.PAD]]


def _apply_overrides(
    overrides: Mapping[str, str],
    base: Vocabulary,
    donor: Vocabulary,
    base_rows: int,
    provenance: np.ndarray[Any, np.dtype[np.int8]],
    source: Ids,
) -> dict[int, tuple[int, ...]]:
    mapped: dict[int, tuple[int, ...]] = {}
    for token, text in overrides.items():
        token_id = _find(donor, token)
        ids = tuple(base.encode(text))
        if not ids or max(ids) >= base_rows:
            raise InputError(
                f"--map {token!r}: the base text {text!r} becomes ids {list(ids)}; "
                f"it must be at least one token with a row in the base's embedding ({base_rows} rows)"
            )
        mapped[token_id] = ids
        provenance[token_id], source[token_id] = Provenance.OVERRIDE, -1
    return mapped


def _find(vocabulary: Vocabulary, token: str) -> int:
    """The id of a token given as a literal, a text, or a piece; in this order, since ``é`` is also a byte."""
    added = vocabulary.literal_ids().get(token.encode())
    if added is not None:
        return added
    ids = vocabulary.encode(token)
    if len(ids) != 1 and token in vocabulary.pieces:
        return vocabulary.pieces.index(token)
    if len(ids) != 1:
        raise InputError(
            f"--map {token!r}: the donor has no such token (as text it is {len(ids)} tokens). "
            "Give a token as spelled in the donor's vocabulary"
        )
    return ids[0]
