"""Verify an output that may have been changed since: nothing in it is believed because it says so."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.errors import InputError
from tokensurgeon.verification.audit import audit_checks
from tokensurgeon.verification.digests import digest_checks
from tokensurgeon.verification.evidence import Evidence
from tokensurgeon.verification.fitting import fitting_checks
from tokensurgeon.verification.merged import merge_checks
from tokensurgeon.verification.origin import identity_checks, plan_checks
from tokensurgeon.verification.running import Check
from tokensurgeon.verification.settings import own_tokenizer_checks, settings_checks
from tokensurgeon.verification.tensors import invariants

__all__ = ["verify"]


def verify(
    out: Path,
    base: Path | None = None,
    donor: Path | None = None,
    *,
    unrun: str | None = None,
    seed: int | None = None,
) -> list[Check]:
    """Check an output against its base, and against its donor if that is given.

    Base and donor are trusted, the output and its manifest are not: what the manifest says of them is compared with
    them, the plan of rows is derived again, settings are written again, rows are made again where they can be. Digests
    in the manifest show what was changed by somebody who did not change those too.

    Args:
        out: The output, with its manifest.
        base: The base's directory. A merge has none, and is checked by itself.
        donor: The donor's directory. Without it, nothing shows whose tokenizer and whose rows an output has; with a
            directory that holds no weights, the tokenizer alone is compared.
        unrun: Why the model is not to be run, see `tokensurgeon.evaluation.policy`; None runs it.
        seed: Of the sample of rows that are made again, where all would take long; drawn if it is not given, so that
            nobody knows it before.

    Returns:
        All checks, failed ones included; what could not be checked is among them as a note.

    Raises:
        InputError: If ``out`` has no manifest, or one of the directories is not a model; if a merge is given a base,
            or anything else none.

    Example:
        >>> from pathlib import Path
        >>> import tokensurgeon
        >>> checks = tokensurgeon.verify(Path("transplanted"), Path("base"), Path("donor"))
        >>> [check.name for check in checks if not check.ok]
        []
    """
    if base is None:
        manifest = Manifest.read(out)
        if manifest is not None and "merge" in manifest.content:
            if donor is not None:
                raise InputError(f"{out} is a merge, which is checked by itself. Leave out its donor (--donor)")
            return merge_checks(out, manifest, unrun)
        raise InputError(f"{out} is no merge, so it is compared with its base. Give that (--base)")
    evidence = Evidence.open(out, base, donor)
    checks = list(_beside(evidence))
    if not all(check.ok for check in checks):
        unrun = unrun or "what was checked before fails"
    checks += invariants(out, base, evidence.compared, unrun=unrun)
    return [*checks, *_made_again(evidence, unrun, secrets.randbelow(1 << 32) if seed is None else seed)]


def _beside(evidence: Evidence) -> Iterator[Check]:
    """Before anything is run: files, settings, and what the manifest says."""
    yield from digest_checks(evidence.out.directory, evidence.out.checkpoint, evidence.manifest)
    yield from identity_checks(evidence)
    for check, alignment in plan_checks(evidence):
        yield check
        if alignment is not None:
            yield from settings_checks(evidence, alignment)
    yield from own_tokenizer_checks(evidence)


def _made_again(evidence: Evidence, unrun: str | None, seed: int) -> Iterator[Check]:
    if unrun is not None:
        yield from fitting_checks(evidence)
    try:
        yield from audit_checks(evidence, seed, unrun is None)
    except (InputError, IndexError) as error:  # fewer rows than the plan names
        yield Check("rows made again", False, f"they cannot be: {error}")
