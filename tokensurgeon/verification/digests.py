"""Record what was written by its digests, and find what is no longer as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokensurgeon.checkpoint import Checkpoint
from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.checkpoint.manifest import Manifest
from tokensurgeon.checkpoint.names import MANIFEST
from tokensurgeon.verification.running import Check

__all__ = ["PAGES", "digest_checks", "files_in", "recorded_digests"]

PAGES = ("README.md", "report.html")
"""For people, who may edit them; nothing loads them, and they are written last."""


def files_in(directory: Path) -> dict[str, Path]:
    """A directory's files by their place in it, folders included; hidden ones, which nothing loads, are left out."""
    found = {path.relative_to(directory): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {p.as_posix(): path for p, path in found.items() if not any(part.startswith(".") for part in p.parts)}


def recorded_digests(
    out: Path, shared: frozenset[str] = frozenset(), before: Mapping[str, Any] | None = None
) -> dict[str, dict[str, str]]:
    """SHA-256 of the stored bytes of tensors, and of the files beside them, for the manifest.

    Args:
        out: What was written, without its pages.
        shared: Names of shards that are the base's own and were not read: a verifier compares them with the base's.
        before: The same of the model that those shards are from, if it has one.
    """
    files = Checkpoint.open(out)
    known = (before or {}).get("tensors", {})
    tensors = {name: files.digest(name) for name, info in files.tensors.items() if info.file.name not in shared}
    tensors |= {name: known[name] for name in files.tensors if name not in tensors and name in known}
    others = files_in(out).items()
    skipped = {*files.shards, *PAGES, MANIFEST}
    return {"tensors": tensors, "files": {name: file_digest(path) for name, path in others if name not in skipped}}


def digest_checks(out: Path, files: Checkpoint, manifest: Manifest) -> Iterator[Check]:
    """Tensors and files are those that were written, as far as the manifest can be believed."""
    recorded = manifest.content.get("sha256")
    if recorded is None:
        why = "the manifest has no digests: it is of an older version, or they were taken out"
        yield Check("as written", True, f"not checked: {why}", note=True)
        return
    there = files_in(out)
    found = {name: name in files.tensors and files.digest(name) == sha for name, sha in recorded["tensors"].items()}
    yield _same("tensors as written", found, f"{len(found)} of {len(files.tensors)} tensors by their digests")
    found = {name: name in there and file_digest(there[name]) == sha for name, sha in recorded["files"].items()}
    yield _same("files as written", found, f"{len(found)} files by their digests")


def _same(name: str, found: Mapping[str, bool], detail: str) -> Check:
    changed = sorted(name for name, same in found.items() if not same)
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
    return Check(name, not changed, f"{shown} changed since" if changed else detail)
