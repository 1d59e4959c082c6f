"""Match a donor's tokens with the base's, by bytes and by role: the plan for every row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from tokensurgeon.alignment.control import ControlTokens
from tokensurgeon.alignment.plan import Alignment, Blend, Provenance, RowPlan
from tokensurgeon.errors import InputError
from tokensurgeon.vocabulary import Role, Vocabulary
from tokensurgeon.vocabulary.markers import MARKER
from tokensurgeon.vocabulary.token import TURNS

__all__ = ["align", "placeholders"]

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
    untrained: AbstractSet[int] = frozenset(),
) -> Alignment:
    """Match the donor's tokens with the base's by bytes and by role.

    Only canonical tokens match: those that a tokenizer emits when it encodes their own bytes. Where both sides have the
    same tokens at the same ids, every row of the base stays, those of dead ids included.

    Args:
        base: Vocabulary of the model that keeps its body.
        donor: Vocabulary that the output will have.
        n_rows: Rows of the output; by default ``len(donor)``.
        base_rows: Rows of the base's embedding; ids beyond have no row to copy.
        donor_rows: Rows of the donor's embedding; tokens beyond cannot be reconstructed.
        overrides: Donor token (its text, literal or piece) to the base text that it stands for.
        untrained: Base ids of control tokens that training never saw: they stand for no turn marker.

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

    control = [i for i, key in enumerate(donor.keys[:n_rows]) if key is not None and not key.is_text]
    roles: dict[int, Blend] = {}
    if _same_tokens(base, donor):
        tokens = None
        plan = _kept(base, donor, n_rows, base_rows, donor_rows)
    else:
        tokens = ControlTokens(base, donor, base_rows, untrained)
        plan, roles = _matched(tokens, n_rows, donor_rows)
        plan = plan.changed(Provenance.UNREACHABLE, _never_predicted(donor, plan.provenance))
    if plan.source.max(initial=-1) < 0:
        raise InputError(
            f"the two vocabularies ({len(base)} and {len(donor)} tokens) share no token, so there is "
            "nothing to reconstruct from. Check that BASE and DONOR are the models you mean"
        )
    given = _ids_of(overrides or {}, base, donor, base_rows)
    plan = plan.changed(Provenance.OVERRIDE, list(given))
    done = {Provenance.ROLE, Provenance.OVERRIDE}
    return Alignment(
        plan,
        given,
        unmapped=tuple(i for i in control if plan.provenance[i] not in done),
        roles={i: blend for i, blend in roles.items() if i not in given},
        beginning=None if tokens is None else tokens.beginning,
        foreign=() if tokens is None else _foreign(tokens, plan, roles, given),
    )


def _foreign(
    tokens: ControlTokens, plan: RowPlan, roles: Mapping[int, Blend], given: Mapping[int, Any]
) -> tuple[int, ...]:
    """Turn markers of the donor none of whose rows is of the base's own turns."""
    own = tokens.turns
    found = []
    for token_id in sorted(tokens.donor.roles.of(*TURNS) - set(given)):
        if token_id < plan.n_rows:
            source = int(plan.source[token_id])
            taken = {*roles[token_id].ids} if token_id in roles else {source}
            found += [token_id] if not taken & own else []
    return tuple(found)


def _same_tokens(base: Vocabulary, donor: Vocabulary) -> bool:
    """Whether both have the same tokens at the same ids, whatever either calls them."""
    return (
        base.pieces == donor.pieces
        and base.added == donor.added
        and all(
            a is None or b is None or a.data == b.data or a.is_text != b.is_text
            for a, b in zip(base.keys, donor.keys, strict=True)
        )
    )


def _kept(base: Vocabulary, donor: Vocabulary, n_rows: int, base_rows: int, donor_rows: int) -> RowPlan:
    """Every row in its place, those without a token included, as far as the base has them and uses them."""
    plan = RowPlan.kept(range(min(n_rows, base_rows)), n_rows)
    provenance = plan.provenance
    for token_id, key in enumerate([*donor.keys, *[None] * n_rows][:n_rows]):
        if key is None:
            provenance[token_id] = Provenance.PADDING
        elif not donor.canonical[token_id]:
            provenance[token_id] = Provenance.UNREACHABLE
        elif token_id < base_rows and base.canonical[token_id]:
            provenance[token_id] = Provenance.COPIED if key.is_text else Provenance.ROLE
        elif token_id < donor_rows:  # other merges make it come out here
            provenance[token_id], plan.source[token_id] = Provenance.RECONSTRUCTED, -1
    return plan


def _matched(tokens: ControlTokens, n_rows: int, donor_rows: int) -> tuple[RowPlan, dict[int, Blend]]:
    """Provenance and source of every row, and the control tokens that several of the base's stand for."""
    base, donor, base_rows = tokens.base, tokens.donor, tokens.limit
    provenance = np.full(n_rows, Provenance.PADDING, dtype=np.int8)
    source = np.full(n_rows, -1, dtype=np.int64)
    blends: dict[int, Blend] = {}
    text = base.text_ids(base_rows)
    dead = {key: i for i, key in reversed([*enumerate(base.keys[:base_rows])]) if key and not base.canonical[i]}
    for token_id, key in enumerate(donor.keys[:n_rows]):
        if key is None:
            continue
        if not donor.canonical[token_id]:
            provenance[token_id], source[token_id] = Provenance.UNREACHABLE, dead.get(key, -1)
            continue
        match, blend = text.get(key.data) if key.is_text else None, None
        if match is None and key.is_text and token_id in donor.added:
            match = tokens.text(key.data)
        why = Provenance.COPIED
        if match is None and (not key.is_text or donor.roles_of(token_id)):
            why, blend = Provenance.ROLE, tokens.counterpart(token_id)
        if blend is not None and len(blend.ids) == 1:
            match = blend.ids[0]
        if match is not None:
            provenance[token_id], source[token_id] = why, match
        elif blend is not None:
            provenance[token_id], blends[token_id] = why, blend
        elif token_id < donor_rows:
            provenance[token_id] = Provenance.RECONSTRUCTED
    return RowPlan(provenance, source), blends


_NUMBER = re.compile(rb"\d+")
_MARKER = re.compile(MARKER.pattern.encode(), re.DOTALL)


def placeholders(vocabulary: Vocabulary) -> list[int]:
    """Added markers that exist in numbers only, such as ``<unused17>``."""
    families: dict[bytes, list[int]] = {}
    for token_id in sorted(vocabulary.added):
        key = vocabulary.keys[token_id]
        if key is None or (key.is_text and not _MARKER.fullmatch(key.data)):
            continue  # text that was added, such as years, is text
        if _NUMBER.search(key.data):
            families.setdefault(_NUMBER.sub(b"0", key.data), []).append(token_id)
    return [i for family in families.values() if len(family) >= PLACEHOLDER_FAMILY for i in family]


def _never_predicted(donor: Vocabulary, provenance: np.ndarray[Any, np.dtype[np.int8]]) -> list[int]:
    """Unmatched placeholders and padding tokens."""
    found = {*placeholders(donor), *donor.roles.ids.get(Role.PAD, ())}
    return [
        i
        for i in sorted(found)
        if i < len(provenance) and provenance[i] == Provenance.RECONSTRUCTED and donor.roles_of(i) in ([], [Role.PAD])
    ]


def _ids_of(
    overrides: Mapping[str, str], base: Vocabulary, donor: Vocabulary, base_rows: int
) -> dict[int, tuple[int, ...]]:
    """Donor ids to the base ids of the texts that were given for them."""
    found: dict[int, tuple[int, ...]] = {}
    for token, text in overrides.items():
        ids = tuple(base.encode(text))
        if not ids or max(ids) >= base_rows:
            raise InputError(
                f"--map {token!r}: the base text {text!r} becomes ids {list(ids)}; "
                f"it must be at least one token with a row in the base's embedding ({base_rows} rows)"
            )
        found[_find(donor, token)] = ids
    return found


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
