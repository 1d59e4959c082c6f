"""What a donor makes of a base's tokens is counted, and what that costs predicted."""

from __future__ import annotations

import json

import pytest
from tiny import TEXT, byte_level
from tokenizers import Tokenizer

from tokensurgeon import Vocabulary, align
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.alignment.prediction import (
    NATS_A_NEW_TOKEN,
    NATS_A_SPLIT,
    NATS_A_SPLIT_BYTE,
    SPREAD,
    predict_loss,
)


@pytest.fixture(scope="module")
def letters():
    """Gives a vocabulary of single bytes and the merges that are asked for."""
    spec = json.loads(byte_level(256, text="").to_str())

    def of(*merges):
        own = json.loads(json.dumps(spec))
        own["model"]["merges"] = [list(merge) for merge in merges]
        own["model"]["vocab"] |= {"".join(merge): 300 + i for i, merge in enumerate(merges)}
        return Vocabulary.from_tokenizer(Tokenizer.from_str(json.dumps(own)))

    return of


def cut(base, donor, *pieces):
    return Cuts.of(base, donor, align(base, donor).plan, pieces)


def test_every_byte_is_counted_once(letters):
    """The base reads ab|c|d|e|f|gh|i, the donor a|b|c|de|f|g|hi."""
    base, donor = letters(("a", "b"), ("g", "h")), letters(("d", "e"), ("h", "i"))
    found = cut(base, donor, "abcdefghi")
    assert (found.n_bytes, found.base_tokens, found.tokens, found.new, found.new_bytes) == (9, 7, 7, 2, 4)
    assert found.places == {"whole": 2, "split": 1, "joined": 1, "mixed": 1} and found.changed == 3
    assert found.inside == {"whole": 2, "split": 2, "joined": 2, "mixed": 3}
    told = found.as_dict()
    assert told["shared"] == 5 / 7 and told["of_bytes"]["new"] == 4 / 9 and told["of_bytes"]["mixed"] == 3 / 9


def test_pieces_add_up(letters):
    base, donor = letters(("a", "b"), ("ab", "c")), letters(("b", "c"))
    found = cut(base, donor, "abc", "", "ab")
    assert found.places["split"] == 2 and found.inside["split"] == found.n_bytes == 5 and found.new == 1


def test_the_same_tokenizer_cuts_nothing_and_costs_nothing(gpt):
    own = Vocabulary.from_tokenizer(gpt)
    found = cut(own, own, TEXT[:3000])
    assert found.inside["whole"] == found.n_bytes == len(TEXT[:3000].encode()) and found.tokens == found.base_tokens
    assert found.as_dict()["shared"] == 1 and not found.changed
    assert predict_loss(found) == (0, 0)


def test_tokens_of_the_base_that_are_split_cost_by_their_bytes_and_new_ones_each_the_same(letters):
    base, donor = letters(("a", "b")), letters()
    once, twice = (cut(base, donor, text) for text in ("abcd", "abab"))
    loss, interval = predict_loss(once)
    assert loss == pytest.approx((NATS_A_SPLIT + 2 * NATS_A_SPLIT_BYTE) / 0.693147 / 4, rel=1e-5)
    assert interval == SPREAD * loss**0.5
    assert predict_loss(twice)[0] == pytest.approx(2 * loss)
    joined = cut(donor, base, "abcd")
    assert predict_loss(joined)[0] == pytest.approx(NATS_A_NEW_TOKEN / 0.693147 / 4, rel=1e-5)
