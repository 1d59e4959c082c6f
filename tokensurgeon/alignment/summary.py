"""Turn an alignment into plain data: counts, examples, and how much of a text the anchors cover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokensurgeon.alignment import Alignment, Provenance, RowPlan
from tokensurgeon.vocabulary import Vocabulary
from tokensurgeon.vocabulary.schemes import SchemeDifference
from tokensurgeon.vocabulary.streams import Counts, counted_ids
from tokensurgeon.vocabulary.token import TURNS

__all__ = ["CountedText", "alignment_summary", "control_tokens", "coverage"]

_EXAMPLES = 8


@dataclass(frozen=True, slots=True)
class CountedText:
    """A text as two tokenizers cut it.

    Attributes:
        base_tokens: Of the base, in all.
        donor_counts: (n_ids,) how often each id of the donor occurs.
    """

    base_tokens: int
    donor_counts: Counts

    @classmethod
    def of(cls, base: Vocabulary, donor: Vocabulary, parts: Iterable[str]) -> CountedText:
        """Count; the parts are gone through twice."""
        counts = counted_ids(donor.encode, parts, len(donor))
        return cls(int(counted_ids(base.encode, parts, len(base)).sum()), counts)


def alignment_summary(
    base: Vocabulary,
    donor: Vocabulary,
    alignment: Alignment,
    schemes: Sequence[SchemeDifference],
    texts: Mapping[str, CountedText],
) -> dict[str, Any]:
    """Counts and examples per provenance, coverage of texts, unmapped control tokens, schemes."""
    return {
        "counts": alignment.plan.counts(),
        "anchors": len(alignment.plan.anchors),
        "examples": {p.label: _examples(p, base, donor, alignment) for p in Provenance if len(alignment.plan.ids(p))},
        "coverage": {name: coverage(donor, alignment.plan, text) for name, text in texts.items()},
        "unmapped": [
            donor.describe(i) for i in alignment.unmapped if alignment.plan.provenance[i] == Provenance.RECONSTRUCTED
        ],
        "silenced": [
            donor.describe(i) for i in alignment.unmapped if alignment.plan.provenance[i] != Provenance.RECONSTRUCTED
        ],
        "turns": {
            "markers": [
                {"token": donor.describe(i), "roles": named_roles(donor, i), "became": became(i, base, alignment)}
                for i in sorted(donor.roles.of(*TURNS) | {*donor.roles.starts})
                if i < alignment.plan.n_rows
            ],
            "foreign": [donor.describe(i) for i in alignment.foreign],
        },
        "scheme_differences": [
            {
                "kind": s.kind,
                "differing": s.differing,
                "probes": s.probes,
                "examples": list(map(list, s.examples)),
            }
            for s in schemes
        ],
    }


def control_tokens(base: Vocabulary, donor: Vocabulary, alignment: Alignment) -> list[dict[str, str]]:
    """Every control token of the donor, what it does, and what became of it. Placeholders are left out."""
    plan, found = alignment.plan, []
    quiet, silenced = set(plan.silenced.tolist()), 0
    for token_id, key in enumerate(donor.keys[: plan.n_rows]):
        if key is None or (key.is_text and not donor.roles_of(token_id)):
            continue
        if token_id in quiet and not donor.roles_of(token_id):
            silenced += 1
            continue
        found.append(
            {
                "token": donor.describe(token_id),
                "roles": named_roles(donor, token_id),
                "became": became(token_id, base, alignment),
            }
        )
    if silenced:
        found.append({"token": f"{silenced} further ones", "roles": "", "became": "take no probability"})
    return found


def named_roles(vocabulary: Vocabulary, token_id: int) -> str:
    """What a token is for, for people."""
    return ", ".join(role.value for role in vocabulary.roles_of(token_id))


def became(token_id: int, base: Vocabulary, alignment: Alignment) -> str:
    """Where a token's row comes from, for people."""
    if rows := _rows_of(token_id, base, alignment):
        return f"the base's {rows}"
    if alignment.plan.provenance[token_id] == Provenance.RECONSTRUCTED:
        return "reconstructed: no counterpart in the base"
    return "takes no probability"


def _rows_of(token_id: int, base: Vocabulary, alignment: Alignment) -> str:
    """The base's tokens whose row, or mean row, a token takes; empty where it takes none."""
    blend, source = alignment.blends.get(token_id), int(alignment.plan.source[token_id])
    if blend is None:
        return base.describe(source) if source >= 0 else ""
    read, predicted = (" + ".join(map(base.describe, ids)) for ids in (blend.input, blend.head))
    return read if read == predicted else f"{read} (read), {predicted} (predicted)"


def coverage(donor: Vocabulary, plan: RowPlan, text: CountedText) -> dict[str, Any]:
    """Share of the donor's tokens for a text that are anchors, by occurrence and by type, and both sides' tokens."""
    counts = text.donor_counts[: plan.n_rows]
    types = np.flatnonzero(counts)
    known, tokens = plan.source[types] >= 0, int(counts.sum())
    missing = types[~known]
    common = missing[np.argsort(-counts[missing], kind="stable")][:_EXAMPLES]
    return {
        "tokens": tokens,
        "base_tokens": text.base_tokens,
        "anchor_share": float(counts[types[known]].sum() / tokens) if tokens else 0.0,
        "anchor_share_of_types": float(known.mean()) if len(types) else 0.0,
        "most_frequent_new": [donor.describe(int(i)) for i in common],
    }


def _examples(provenance: Provenance, base: Vocabulary, donor: Vocabulary, alignment: Alignment) -> list[str]:
    """Rows spread evenly over the ids, so that examples are not all bytes."""
    ids = alignment.plan.ids(provenance)
    chosen = ids[np.linspace(0, len(ids) - 1, min(_EXAMPLES, len(ids))).astype(int)].tolist()
    if provenance is Provenance.ROLE:
        return [f"{donor.describe(i)} ← {_rows_of(i, base, alignment)}" for i in chosen]
    if provenance is Provenance.OVERRIDE:
        return [f"{donor.describe(i)} ← {' '.join(base.describe(b) for b in alignment.overrides[i])}" for i in chosen]
    return [donor.describe(i) for i in chosen]
