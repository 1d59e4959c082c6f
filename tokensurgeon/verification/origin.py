"""Hold what a manifest says of its origin against base and donor: who they are, and where every row comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tokensurgeon.alignment import Alignment, Provenance, RowPlan, align
from tokensurgeon.alignment.match import placeholders
from tokensurgeon.checkpoint.inherited import inherited
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import InputError
from tokensurgeon.evaluation.start import described_start
from tokensurgeon.transfer.rows import drop_rowless
from tokensurgeon.transfer.untrained import untrained_ids
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.trained import trained_rows
from tokensurgeon.vocabulary.edit.digits import spaced_digits

__all__ = ["derived", "identity_checks", "plan_checks"]

_LISTED = 5


def identity_checks(evidence: Evidence) -> Iterator[Check]:
    """The manifest's digests of base and donor are those of the ones that are given."""
    content, base = evidence.content, evidence.base.described()
    yield _recorded("base", content["base"], base)
    if evidence.kind in ("trim", "resize") or (evidence.kind == "extend" and content["options"].get("donor") is None):
        yield _recorded("donor", content["donor"], base)  # the model itself
    elif evidence.donor is not None and evidence.donor_matrices is not None:
        yield _recorded("donor", content["donor"], evidence.donor.described())


def _recorded(what: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Check:
    said = recorded["sha256"]
    differ = [name for name, digest in found["sha256"].items() if said.get(name) != digest]
    differ += [name for name in ("rows", "dim", "tied") if recorded.get(name) != found[name]]
    detail = f"{', '.join(differ[:3])} {'are' if len(differ) > 1 else 'is'} not the one of the manifest"
    return Check(f"{what} as recorded", not differ, detail if differ else f"{len(said)} digests")


def derived(evidence: Evidence) -> Alignment:
    """Where every row must come from, by the base's tokenizer and the output's, or the donor's if it is given.

    Raises:
        InputError: If there is no such plan: the manifest asks for what cannot be.
    """
    plan = evidence.manifest.plan
    if evidence.kind == "transplant":
        return _aligned(evidence)
    rows = evidence.base.layout.rows
    if evidence.kind == "resize":
        return Alignment(RowPlan.kept(range(min(rows, plan.n_rows)), plan.n_rows))
    if evidence.kind == "trim":
        return Alignment(_trimmed(evidence.base, evidence.out))
    if evidence.kind == "revert":
        before = Manifest.of_transplant(evidence.base.directory)
        if before is None:
            raise InputError("the base has no tokensurgeon.json, so that nothing was reverted")
        return Alignment(before.plan.reverted(plan.n_rows))
    first, vocabulary = len(evidence.base.vocabulary), evidence.out.vocabulary
    new = np.arange(first, len(vocabulary))
    dead = new[~vocabulary.canonical[new]]
    kept = RowPlan.kept(range(min(rows, plan.n_rows)), plan.n_rows)
    return Alignment(kept.changed(Provenance.RECONSTRUCTED, new).changed(Provenance.UNREACHABLE, dead))


def _aligned(evidence: Evidence) -> Alignment:
    base, content = evidence.base, evidence.content
    tokenizer = evidence.tokenizer
    vocabulary = evidence.out.vocabulary if tokenizer is None else tokenizer.vocabulary()
    asked = content["options"].get("map") or {}
    embedding = base.checkpoint.read(base.layout.embedding)
    return align(
        base.vocabulary,
        vocabulary,
        n_rows=evidence.manifest.plan.n_rows,
        base_rows=base.layout.rows,
        donor_rows=content["donor"]["rows"],
        overrides={**(spaced_digits(vocabulary) if evidence.digitwise else {}), **asked},
        untrained=untrained_ids(base.vocabulary, embedding, placeholders(base.vocabulary)),
    )


def _trimmed(base: OpenModel, out: OpenModel) -> RowPlan:
    """By the tokens' own names: those of the output are some of the base's."""
    old = {piece: i for i, piece in enumerate(base.vocabulary.pieces) if piece is not None}
    return RowPlan.kept([old.get(piece or "", -1) for piece in out.vocabulary.pieces])


def plan_checks(evidence: Evidence) -> Iterator[tuple[Check, Alignment | None]]:
    """The manifest's plan is the one that follows from the tokenizers; that one comes with the check."""
    said, content, dropped = evidence.manifest.plan, evidence.content, ""
    try:
        alignment = derived(evidence)
        # Tokens without a row in the donor are padding, where a method goes by those rows or was chosen.
        if evidence.kind == "transplant" and (content["options"].get("method") == "auto" or _by_donor(evidence)):
            if evidence.donor_matrices is not None:
                alignment = drop_rowless(alignment, evidence.donor_matrices)
            else:
                alignment, dropped = _without(alignment, said)
    except (InputError, IndexError) as error:
        yield Check("plan", False, f"there is none: {error}"), None
        return
    alignment = replace(alignment, plan=_after_training(alignment.plan, evidence.manifest))
    plan, by = alignment.plan, "donor's" if evidence.donor is not None else "output's own"
    if plan.n_rows != said.n_rows:
        yield Check("plan", False, f"{said.n_rows} rows, and {plan.n_rows} by the {by} tokenizer"), None
        return
    yield from _overridden(evidence)
    wrong = np.flatnonzero((plan.provenance != said.provenance) | (plan.source != said.source))
    what = [f"{len(wrong)} rows come from elsewhere (first: id {wrong[0]})"] if len(wrong) else []
    if "blends" in content:
        blends = {str(i): [[*blend.input], [*blend.head], [*blend.tied]] for i, blend in alignment.blends.items()}
        what += ["other rows are means"] if blends != content["blends"] else []
        what += ["texts begin otherwise"] if content.get("beginning") != alignment.beginning else []
    expected = described_start(plan, evidence.base, evidence.out.directory, evidence.out.tokenizer)
    if expected and not content.keys() & expected.keys():
        dropped += ". It does not say what texts start with, as older versions did not"
    elif expected != {name: content[name] for name in ("starts_with", "start") if name in content}:
        what += ["texts start otherwise"]
    carried = inherited(plan, evidence.base.nature, _restoring(evidence))
    if carried and "inherited" not in content:  # as older versions wrote
        dropped += ". It does not say which copied rows were made or trained in the base"
    elif carried != content.get("inherited", {}):
        what += ["copied rows were something else in the base than it says"]
    detail = f"{plan.n_rows} rows come from where the base's and the {by} tokenizer say{dropped}"
    shown = "; ".join(what) + _versions(content) if what else detail
    yield Check("plan", not what, shown, note=bool(dropped) and not what), alignment


def _after_training(plan: RowPlan, manifest: Manifest) -> RowPlan:
    rows = trained_rows(manifest)
    return plan.trained(rows[rows < plan.n_rows])


def _restoring(evidence: Evidence) -> np.ndarray[Any, np.dtype[np.int8]] | None:
    """What the rows are that were restored; without the donor's weights nothing is known of them."""
    known = evidence.kind == "revert" and evidence.donor is not None and evidence.donor_matrices is not None
    return evidence.donor.nature if known and evidence.donor is not None else None


def _by_donor(evidence: Evidence) -> bool:
    return evidence.method.needs == "donor"


def _overridden(evidence: Evidence) -> Iterator[tuple[Check, None]]:
    """Rows that are where they are because the manifest says that somebody asked for it."""
    asked = evidence.content["options"].get("map") or {}
    if evidence.kind != "transplant" or not asked:
        return
    shown = ", ".join(f"{new!r} ← {old!r}" for new, old in list(asked.items())[:_LISTED])
    more = f" and {len(asked) - _LISTED} more" if len(asked) > _LISTED else ""
    detail = f"{len(asked)} rows are by the manifest's --map, which nothing here can prove: {shown}{more}"
    yield Check("overrides", True, detail, note=True), None


def _without(alignment: Alignment, said: RowPlan) -> tuple[Alignment, str]:
    """Rows that the manifest takes for padding may be so: only the donor's weights tell which tokens have no row."""
    gone = (alignment.plan.provenance == Provenance.RECONSTRUCTED) & (said.provenance == Provenance.PADDING)
    if not gone.any():
        return alignment, ""
    plan = alignment.plan.changed(Provenance.PADDING, np.flatnonzero(gone))
    return replace(alignment, plan=plan), f", if the donor has no row for {int(gone.sum())} of them"


def _versions(content: Mapping[str, Any]) -> str:
    from importlib.metadata import version

    written, here = content.get("versions", {}).get("tokensurgeon"), version("tokensurgeon")
    return "" if written == here else f". It was written by version {written}, this is {here}: its rules may differ"
