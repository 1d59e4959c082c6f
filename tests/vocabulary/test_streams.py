"""Texts that come in parts, where the tokenizer makes it hard; that all families agree is seen in test_every_family."""

from __future__ import annotations

import json

import numpy as np
from tiny import TEXT, byte_level
from tokenizers import Tokenizer

from tokensurgeon import Vocabulary
from tokensurgeon.vocabulary.streams import counted_ids, encoded_parts


def long_runs() -> Vocabulary:
    """Has tokens of up to 256 letters ``a``, so that a run is cut by where it begins."""
    spec = json.loads(byte_level(500, text=TEXT[:12_000]).to_str())
    spec["model"]["merges"] = [["a" * n, "a" * n] for n in (1, 2, 4, 8, 16, 32, 64, 128)]
    spec["model"]["vocab"] |= {"a" * 2 * len(a): 500 + i for i, (a, _) in enumerate(spec["model"]["merges"])}
    return Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(spec)))


def test_where_no_start_does_the_text_is_cut_hard_and_that_is_said(caplog):
    encode = long_runs().encode
    found = list(encoded_parts(encode, ["a" * 20_000], 1536))
    assert len(encode("a" * 20_000)) < sum(map(len, found)) < len(encode("a" * 20_000)) + 4 * len(found)
    (record,) = caplog.records
    assert f"was cut at {len(found) - 1} places, the first after 1488 characters" in record.getMessage()


def test_a_run_that_is_cut_by_where_it_begins_has_the_ids_of_the_whole(caplog):
    encode = long_runs().encode
    assert [i for ids in encoded_parts(encode, ["a" * 200_001]) for i in ids] == encode("a" * 200_001)
    assert not caplog.records


def test_a_beginning_that_depends_on_what_comes_much_later_is_said(caplog):
    def encode(text: str) -> list[int]:
        return [len(text), *map(ord, text)]

    list(encoded_parts(encode, ["abc" * 2000], 1536))
    assert "places, the first after 1488 characters" in caplog.text


def test_no_text_has_no_ids():
    assert list(encoded_parts(lambda text: list(map(ord, text)), [])) == [[]]
    assert list(encoded_parts(lambda text: list(map(ord, text)), ["", ""])) == [[]]


def test_counts_are_those_of_the_whole_text():
    vocabulary = Vocabulary.from_tokenizer(byte_level(500, text=TEXT[:12_000]))
    counts = counted_ids(vocabulary.encode, TEXT[:7000], len(vocabulary))  # letter by letter
    assert np.array_equal(counts, np.bincount(vocabulary.encode(TEXT[:7000]), minlength=len(vocabulary)))
