"""Shards of which nothing changes: linked, cloned or copied."""

from __future__ import annotations

import errno
import os

import pytest

from tokensurgeon import InputError, TransplantOptions, transplant
from tokensurgeon.checkpoint.linking import place


@pytest.mark.parametrize("how", ["auto", "hard", "copy"])
def test_only_the_embeddings_shard_is_written(zoo, tmp_path, how):
    base = zoo["sharded"]
    report = transplant(str(base), str(zoo["spm"]), tmp_path / "out", TransplantOptions(k=8, link=how))
    assert all(check.ok for check in report.checks)
    shards = sorted(base.glob("*.safetensors"))
    same_file = [path.samefile(tmp_path / "out" / path.name) for path in shards]
    same_bytes = [path.read_bytes() == (tmp_path / "out" / path.name).read_bytes() for path in shards]
    assert len(shards) > 1 and same_bytes.count(False) == 1
    if how == "hard":
        assert same_file == same_bytes
    if how == "copy":
        assert not any(same_file)


def test_the_hubs_cache_is_made_of_links(tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "model").symlink_to(tmp_path / "blob")
    place(tmp_path / "model", tmp_path / "out", "hard")
    assert not (tmp_path / "out").is_symlink() and (tmp_path / "out").samefile(tmp_path / "blob")


def test_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "old").write_bytes(b"weights")
    place(tmp_path / "old", tmp_path / "new", "auto")
    assert (tmp_path / "new").read_bytes() == b"weights" and not (tmp_path / "new").samefile(tmp_path / "old")
    with pytest.raises(InputError, match="cannot be hard-linked into the output"):
        place(tmp_path / "old", tmp_path / "other", "hard")
    assert not (tmp_path / "other").exists()


def test_an_unknown_way():
    with pytest.raises(InputError, match="link='soft' must be one of auto, hard, copy"):
        TransplantOptions(link="soft")
