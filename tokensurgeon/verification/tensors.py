"""Verify the invariants of a transplanted model on what was really written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from tokensurgeon.alignment import Provenance
from tokensurgeon.checkpoint import Checkpoint, TokenizerFiles, VocabularyTensors, find_vocabulary_tensors
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.model import OpenModel
from tokensurgeon.errors import VerificationError
from tokensurgeon.transfer.protocol import Use
from tokensurgeon.transfer.rows import SUPPRESSED_BIAS, VocabularyMatrices
from tokensurgeon.verification.rows import Matrix, row_checks
from tokensurgeon.verification.running import Check, Scorer, forward_checks, tokenizer_alone, tokenizer_checks
from tokensurgeon.verification.trained import trained_checks, trained_tensors

__all__ = ["accepted", "invariants"]


def invariants(
    out: Path,
    base: Path,
    donor: Path | None = None,
    *,
    unrun: str | None = None,
    shared: frozenset[str] = frozenset(),
    score: Scorer | None = None,
    device: str | torch.device = "cpu",
) -> list[Check]:
    """What must hold of an output by itself and beside its base, where the manifest is believed: it was just made.

    Args:
        out: The output, with its manifest.
        base: The base's directory.
        donor: A directory with the tokenizer; without it, the tokenizer is only checked against itself. Rows that were
            restored are checked against its weights, if it has such.
        unrun: Why the model is not to be run, see `tokensurgeon.evaluation.policy`; None runs it.
        shared: Names of shards that were cloned a moment ago, and need not be read to know that they are the same.
        score: Where the model is run, what it reads; see `forward_checks`.
        device: Where the model is run.

    Returns:
        All checks, failed ones included.

    Raises:
        InputError: If ``out`` has no manifest, or one of the directories is not a model.
    """
    manifest = Manifest.of_output(out)
    new, old = Checkpoint.open(out), Checkpoint.open(base)
    new_layout = find_vocabulary_tensors(out, new.tensors)
    old_layout = find_vocabulary_tensors(base, old.tensors)
    theirs = None
    if len(manifest.plan.ids(Provenance.RESTORED)) and donor is not None and any(donor.glob("*.safetensors")):
        theirs = OpenModel(donor.name, donor, TokenizerFiles.open(donor)).matrices()
    checks = list(_tensors(new, old, new_layout, old_layout, manifest, shared, theirs))
    checks += list(tokenizer_checks(out, donor, manifest))
    if all(check.ok for check in checks):
        run = forward_checks(out, manifest, score, device) if unrun is None else tokenizer_alone(out, unrun)
        checks += list(run)
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
    donor: VocabularyMatrices | None,
) -> Iterator[Check]:
    vocabulary = {new_layout.embedding, new_layout.head, new_layout.bias} - {None}
    copies = {*new_layout.unclaimed, *old_layout.unclaimed}
    replaced = vocabulary | {old_layout.embedding, old_layout.head, old_layout.bias} | set(old_layout.stale) | copies
    body, old_body = set(new.tensors) - replaced, set(old.tensors) - replaced
    yield Check("no stale head", not new_layout.stale, str(sorted(new_layout.stale) or "one matrix each"))
    yield Check("tensor names", body == old_body, _difference(body, old_body) or f"{len(body)} body tensors")
    cast = manifest.content["options"].get("dtype")
    trained = trained_tensors(new.directory, new, manifest)
    known = {name for name in body & old_body if new.tensors[name].file.name in shared} | trained
    changed = [name for name in sorted((body & old_body) - known) if not _same(new, old, name, cast)]
    how = f"identical, cast to {cast}" if cast else "identical byte for byte"
    how += f", but for {len(trained)} that were trained" if trained else ""
    yield Check("body unchanged", not changed, f"{changed[:3]} differ" if changed else how)
    yield from trained_checks(new.directory, new, old, manifest)

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
    for number, (name, old_name) in enumerate(pairs):
        source = old.read(old_name)
        use: Use = "head" if number else "both" if new_layout.head is None else "input"
        quiet = SUPPRESSED_BIAS if name == new_layout.bias else 0.0 if use == "input" or old_layout.bias else None
        theirs = None if donor is None else _counterpart(donor, number, name == new_layout.bias)
        yield from row_checks(
            Matrix(
                name=name,
                new=new.read(name).reshape(rows, -1),
                old=source.reshape(len(source), -1),
                use=use,
                donor=None if theirs is None else theirs.reshape(len(theirs), -1),
                quiet=quiet,
                dtype=getattr(torch, cast) if cast else source.dtype,
            ),
            manifest,
        )


def _counterpart(donor: VocabularyMatrices, number: int, is_bias: bool) -> torch.Tensor | None:
    if is_bias:
        return donor.bias
    return donor.embedding if number == 0 or donor.head is None else donor.head


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
