"""Verify a merge, which has no single base: what lies there is what was written, it fits together, and it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.header import INDEX
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.errors import InputError
from tokensurgeon.verification.digests import PAGES, digest_checks, files_in
from tokensurgeon.verification.running import Check, forward_checks, tokenizer_alone, tokenizer_checks
from tokensurgeon.verification.settings import added_checks

__all__ = ["merge_checks"]

_OWN = {MANIFEST, INDEX}


def merge_checks(out: Path, manifest: Manifest, unrun: str | None = None) -> list[Check]:
    """Check a merge by itself; with which models it was made is proven by merging again.

    Args:
        out: The merge.
        manifest: Its manifest.
        unrun: Why it is not to be run; None runs it.

    Returns:
        All checks, failed ones included.

    Raises:
        InputError: If ``out`` is not a model, or its manifest is damaged.
    """
    checks = list(_beside(out, manifest))
    if all(check.ok for check in checks):
        checks += forward_checks(out, manifest) if unrun is None else tokenizer_alone(out, unrun)
    again = "not checked: merge its recipe with its seed again, and compare sha256 in both tokensurgeon.json"
    return [*checks, Check("made of the models named", True, again, note=True)]


def _beside(out: Path, manifest: Manifest) -> Iterator[Check]:
    files = Checkpoint.open(out)
    if "tokenizer_sha256" not in manifest.content:
        raise InputError(f"{out / MANIFEST} is damaged (it lacks tokenizer_sha256). Merge again")
    yield from digest_checks(out, files, manifest)
    recorded = manifest.content.get("sha256", {})
    if "tensors" in recorded:
        others = sorted(files.tensors.keys() - recorded["tensors"].keys())
        yield Check("no other tensors", not others, f"{', '.join(others[:3])}: not written" if others else "none")
    if (written := recorded.get("files")) is not None:
        yield from added_checks(out, [n for n in files_in(out) if n not in {*written, *files.shards, *PAGES, *_OWN}])
    yield from tokenizer_checks(out, None, manifest)
