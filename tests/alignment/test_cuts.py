"""What a donor makes of a base's tokens is counted, and what that costs predicted."""

from __future__ import annotations

import json

import pytest
from tiny import TEXT, byte_level
from tokenizers import Tokenizer

from tokensurgeon import Vocabulary, align
from tokensurgeon.alignment.cuts import Cuts
from tokensurgeon.alignment.prediction import predict_loss


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
    assert cut(base, donor, "abcdefghi") == Cuts(
        n_bytes=9, base_tokens=7, tokens=7, new=2, inside=1, new_bytes=4, whole=2, split=2, joined=2, mixed=3
    )


def test_pieces_add_up(letters):
    base, donor = letters(("a", "b"), ("ab", "c")), letters(("b", "c"))
    assert cut(base, donor, "abc", "ab") == Cuts(
        n_bytes=5, base_tokens=2, tokens=4, new=1, inside=2, new_bytes=2, split=5
    )


def test_the_same_tokenizer_cuts_nothing_and_costs_nothing(gpt):
    own = Vocabulary.from_tokenizer(gpt)
    found = cut(own, own, TEXT[:3000])
    assert found.whole == found.n_bytes == len(TEXT[:3000].encode()) and found.tokens == found.base_tokens
    assert found.shares()["shared"] == 1 and not found.new + found.split + found.joined + found.mixed
    assert predict_loss(found)[0] == 0


def test_more_cuts_and_more_new_tokens_cost_more():
    few, cut_up, new = (Cuts(n_bytes=1000, tokens=300, **of) for of in ({}, {"inside": 9}, {"inside": 9, "new": 9}))
    losses = [predict_loss(of)[0] for of in (few, cut_up, new)]
    assert losses == sorted(losses) and len(set(losses)) == 3
    assert predict_loss(new)[1] > predict_loss(few)[1] > 0
    assert predict_loss(Cuts())[0] == 0
