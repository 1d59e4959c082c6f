"""Verify the invariants of a transplanted model on what was really written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tokensurgeon.alignment import Blend, Ids
from tokensurgeon.checkpoint import Checkpoint, VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.errors import InputError, VerificationError
from tokensurgeon.solver.problem import damaged_rows
from tokensurgeon.transfer.protocol import Use
from tokensurgeon.transfer.rows import blended
from tokensurgeon.verification.running import Check, forward_checks, tokenizer_alone, tokenizer_checks

__all__ = ["accepted", "differing", "verify"]

_BLOCK = 4096


def verify(
    out: Path,
    base: Path,
    donor: Path | None = None,
    *,
    unrun: str | None = None,
    shared: frozenset[str] = frozenset(),
) -> list[Check]:
    """Check a transplanted model against its base (and its donor's tokenizer, if given).

    Args:
        out: The transplanted model, with its manifest.
        base: The base's directory.
        donor: The donor's directory; without it, the tokenizer is only checked against itself.
        unrun: Why the model is not to be run, see `tokensurgeon.evaluation.policy`; None runs it.
        shared: Names of shards that were cloned a moment ago, and need not be read to know that they are the same.

    Returns:
        All checks, failed ones included.

    Raises:
        InputError: If ``out`` has no manifest, or one of the directories is not a model.

    Example:
        >>> from pathlib import Path
        >>> import tokensurgeon
        >>> checks = tokensurgeon.verify(Path("transplanted"), Path("base"), Path("donor"))
        >>> [check.name for check in checks if not check.ok]
        []
    """
    manifest = Manifest.of_transplant(out)
    if manifest is None:
        raise InputError(f"{out} has no tokensurgeon.json, so it was not written by tokensurgeon")
    new, old = Checkpoint.open(out), Checkpoint.open(base)
    new_layout = find_vocabulary_tensors(out, new.tensors)
    old_layout = find_vocabulary_tensors(base, old.tensors)
    checks = list(_tensors(new, old, new_layout, old_layout, manifest, shared))
    checks += list(tokenizer_checks(out, donor, manifest))
    if all(check.ok for check in checks):
        checks += list(forward_checks(out, manifest) if unrun is None else tokenizer_alone(out, unrun))
    return checks


def accepted(checks: list[Check]) -> dict[str, str]:
    """The details of all checks by name, for the manifest.

    Raises:
        VerificationError: If one failed; what was written must not stay.
    """
    failed = [check for check in checks if not check.ok]
    if failed:
        raise VerificationError(
            "the written model was discarded, because it fails: " + "; ".join(f"{c.name} ({c.detail})" for c in failed)
        )
    return {check.name: check.detail for check in checks}


def _tensors(
    new: Checkpoint,
    old: Checkpoint,
    new_layout: VocabularyTensors,
    old_layout: VocabularyTensors,
    manifest: Manifest,
    shared: frozenset[str],
) -> Iterator[Check]:
    vocabulary = {new_layout.embedding, new_layout.head, new_layout.bias} - {None}
    copies = {*new_layout.unclaimed, *old_layout.unclaimed}
    replaced = vocabulary | {old_layout.embedding, old_layout.head, old_layout.bias} | set(old_layout.stale) | copies
    body, old_body = set(new.tensors) - replaced, set(old.tensors) - replaced
    yield Check("no stale head", not new_layout.stale, str(sorted(new_layout.stale) or "one matrix each"))
    yield Check("tensor names", body == old_body, _difference(body, old_body) or f"{len(body)} body tensors")
    cast = manifest.content["options"].get("dtype")
    healed = manifest.content.get("healed") or {"tensors": [], "rows": []}
    known = {name for name in body & old_body if new.tensors[name].file.name in shared} | {*healed["tensors"]}
    changed = [name for name in sorted((body & old_body) - known) if not _same(new, old, name, cast)]
    how = f"identical, cast to {cast}" if cast else "identical byte for byte"
    how += f", but for {len(healed['tensors'])} that were trained" if healed["tensors"] else ""
    yield Check("body unchanged", not changed, f"{changed[:3]} differ" if changed else how)

    if copies:
        digests = {new.digest(name) for name in (new_layout.embedding, new_layout.head) if name}
        same = copies == set(new_layout.unclaimed) and all(new.digest(name) in digests for name in copies)
        yield Check("copies of the embedding", same, f"{sorted(copies)[:3]} {'agree' if same else 'differ'}")
    rows = manifest.plan.n_rows
    pairs = [(new_layout.embedding, old_layout.embedding)]
    if new_layout.head:
        pairs.append((new_layout.head, old_layout.head or old_layout.embedding))
    if new_layout.bias and old_layout.bias:
        pairs.append((new_layout.bias, old_layout.bias))
    shapes = {name: new.tensors[name].shape for name, _ in pairs}
    good = all(
        shape[0] == rows and shape[1:] == old.tensors[o].shape[1:]
        for (n, o), shape in zip(pairs, shapes.values(), strict=True)
    )
    yield Check("shapes", good, ", ".join(f"{n} {list(s)}" for n, s in shapes.items()))
    if not good:
        return
    trained = np.array(healed["rows"], dtype=np.int64)
    anchors = np.setdiff1d(manifest.plan.copied, trained)
    blends = {
        int(i): Blend(*map(tuple, ids))
        for i, ids in manifest.content.get("blends", {}).items()
        if int(i) not in trained
    }
    for number, (name, old_name) in enumerate(pairs):
        tensor, source = new.read(name).reshape(rows, -1), old.read(old_name)
        bad = damaged_rows(tensor)
        yield Check(f"{name} finite", not len(bad), f"row {int(bad[0])} is not" if len(bad) else f"{rows} rows")
        wanted = getattr(torch, cast) if cast else source.dtype
        if wanted != tensor.dtype:
            yield Check(f"{name} anchors", False, f"stored as {tensor.dtype}, expected {wanted}")
            continue
        if (top := int(manifest.plan.source.max(initial=-1))) >= len(source):
            yield Check(f"{name} anchors", False, f"the base has {len(source)} rows, and one is of its id {top}")
            continue
        differ = differing(tensor, source.reshape(len(source), -1), anchors, manifest.plan.source[anchors])
        yield Check(
            f"{name} anchors",
            not len(differ),
            f"{len(differ)} rows differ from the base's (first: id {differ[0]})"
            if len(differ)
            else f"{len(anchors)} rows bit-identical to the base's",
        )
        if blends:
            use: Use = "head" if number else "both" if new_layout.head is None else "input"
            matrix = source.reshape(len(source), -1)
            wrong = [
                i for i, blend in blends.items() if not torch.equal(tensor[i], blended(matrix, blend, use).to(wanted))
            ]
            yield Check(
                f"{name} blends",
                not wrong,
                f"id {wrong[0]} is not" if wrong else f"{len(blends)} rows are means of the base's",
            )


def differing(new: torch.Tensor, old: torch.Tensor, ids: Ids, sources: Ids) -> Ids:
    """Those ``ids`` whose rows in ``new`` are not, bit by bit, the ``sources`` of ``old``, cast to the same dtype."""
    equal = np.ones(len(ids), dtype=bool)
    for start in range(0, len(ids), _BLOCK):
        part = slice(start, start + _BLOCK)
        got, wanted = new[torch.from_numpy(ids[part])], old[torch.from_numpy(sources[part])].to(new.dtype)
        equal[part] = (got.view(torch.uint8) == wanted.view(torch.uint8)).all(dim=1).numpy()
    return ids[~equal]


def _same(new: Checkpoint, old: Checkpoint, name: str, cast: str | None) -> bool:
    a, b = new.tensors[name], old.tensors[name]
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype:
        return new.same(old, name)
    if cast is None:
        return False
    wanted = old.read(name).to(getattr(torch, cast))
    return bool(torch.isfinite(wanted).all()) and torch.equal(new.read(name), wanted)


def _difference(a: set[str], b: set[str]) -> str:
    extra, missing = sorted(a - b)[:3], sorted(b - a)[:3]
    return (f"unexpected {extra} " if extra else "") + (f"missing {missing}" if missing else "")
