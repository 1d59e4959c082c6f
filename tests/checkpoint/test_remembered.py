"""Which ids are emitted is looked for once."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import byte_level

import tokensurgeon.checkpoint.emitted as kept
from tokensurgeon.checkpoint.emitted import remembered
from tokensurgeon.vocabulary import Vocabulary


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "_FEWEST", 100)
    return tmp_path / "cache" / "emitted"


def never():
    raise AssertionError("looked for again")


def test_flags_are_looked_for_once_and_come_back_as_they_were(cache):
    flags = np.arange(1003) % 3 == 0
    assert remembered("a", len(flags), lambda: flags) is flags
    assert np.array_equal(remembered("a", len(flags), never), flags)
    (file,) = cache.iterdir()
    file.write_bytes(b"short")  # such as a file that another program cut
    assert np.array_equal(remembered("a", len(flags), lambda: ~flags), ~flags)


def test_small_tokenizers_are_asked_and_an_unusable_cache_stops_nobody(cache):
    flags = np.ones(99, dtype=np.bool_)
    assert remembered("b", 99, lambda: flags) is flags and not cache.exists()
    cache.parent.mkdir()
    cache.write_text("no directory")
    assert remembered("c", 500, lambda: flags) is flags and cache.read_text() == "no directory"


def test_another_tokenizer_has_another_key():
    keys = []

    def remember(key, _size, find):
        keys.append(key)
        return find()

    one = byte_level(500)
    other = byte_level(500)
    other.add_special_tokens(["<end>"])
    for tokenizer, declared in ((one, {}), (one, {}), (other, {})):
        Vocabulary.from_tokenizer(tokenizer, declared, None, remember)
    assert keys[0] == keys[1] and keys[1] != keys[2]
