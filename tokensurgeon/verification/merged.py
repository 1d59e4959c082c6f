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

__all__ = ["is_merge", "merge_checks"]

_OWN = {MANIFEST, INDEX}


def is_merge(out: Path) -> bool:
    """Whether a model says that it is a merge of several.

    Raises:
        InputError: If its manifest is damaged.
    """
    manifest = Manifest.read(out)
    return manifest is not None and "merge" in manifest.content


def merge_checks(out: Path, unrun: str | None = None) -> list[Check]:
    """Check a merge by itself; with which models it was made is proven by merging again.

    Args:
        out: The merge.
        unrun: Why it is not to be run; None runs it.

    Returns:
        All checks, failed ones included.

    Raises:
        InputError: If ``out`` is not a model, or its manifest is damaged.
    """
    checks = list(_beside(out))
    if all(check.ok for check in checks):
        manifest = Manifest.read(out)
        assert manifest is not None
        checks += forward_checks(out, manifest) if unrun is None else tokenizer_alone(out, unrun)
    again = "not checked: merge its recipe with its seed again, and compare sha256 in both tokensurgeon.json"
    return [*checks, Check("made of the models named", True, again, note=True)]


def _beside(out: Path) -> Iterator[Check]:
    manifest, files = Manifest.read(out), Checkpoint.open(out)
    assert manifest is not None
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
