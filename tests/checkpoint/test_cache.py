"""Digests that are kept while the process runs."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from tokensurgeon.checkpoint.digest import file_digest
from tokensurgeon.merging.estimate.loading import weights_digest
from tokensurgeon.merging.models import content_digest


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were read to hash them."""
    names = []
    whole = hashlib.file_digest

    def watched(file, name):
        names.append(Path(file.name).name)
        return whole(file, name)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    return names


def test_an_unchanged_file_is_read_once(tmp_path, read):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    assert {file_digest(path) for _ in range(3)} == {hashlib.sha256(b"weights").hexdigest()}
    assert read == [path.name]


@pytest.mark.parametrize("how", ["size", "in place", "replaced"])
def test_a_changed_file_has_another_digest(tmp_path, read, how):
    """As long as before and with the old time of change too, as `cp -p` leaves it."""
    path, other = tmp_path / "model.safetensors", tmp_path / "other"
    path.write_bytes(b"weights")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    before = file_digest(path)
    time.sleep(0.05)  # the file system's clock has steps
    content = b"weights, more" if how == "size" else b"WEIGHTS"
    (other if how == "replaced" else path).write_bytes(content)
    os.utime(other if how == "replaced" else path, ns=times)
    if how == "replaced":
        other.rename(path)
    assert path.stat().st_mtime_ns == times[1]
    assert before != file_digest(path) == hashlib.sha256(content).hexdigest()
    assert read == [path.name] * 2


def test_a_merge_reads_weights_once_to_know_them(copy_of, read):
    """However often it asks, and whichever of the two digests."""
    model = copy_of("sharded")
    first = content_digest(model), weights_digest(model)
    assert (content_digest(model), weights_digest(model)) == first
    shards = sorted(path.name for path in model.glob("*.safetensors"))
    assert len(shards) > 1 and sorted(name for name in read if name in shards) == shards
