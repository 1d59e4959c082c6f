"""Digits cut apart, everything else as before, ids as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import TEXT, byte_level, sentencepiece_bpe, unigram
from tokenizers import Regex, Tokenizer, pre_tokenizers

from tokensurgeon import Vocabulary
from tokensurgeon.vocabulary.edit.digits import PROBES, digit_tokens, digitwise_spec, is_digitwise

NUMBERS = "".join(f"{i} x{i}y {i}, " for i in range(1200))
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = (
    "The quick  brown fox\n\n\tjumps, naïve — 日本語 🙂 'tis",
    "a  \n b",
    "ÃÂ¹²³ ٣٤٥ ½",  # digits that are not 0 to 9, and letters that look like bytes
)


def _threes() -> Tokenizer:
    """Llama-3 style: up to three digits, and whole words before any merge."""
    tokenizer = byte_level(1500, text=NUMBERS + TEXT)
    step = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [step, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    spec = json.loads(tokenizer.to_str())
    spec["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(spec))


def _llama_2() -> Tokenizer:
    """No pre-tokenizer at all."""
    tokenizer = sentencepiece_bpe(1200, text=NUMBERS + TEXT)
    spec = json.loads(tokenizer.to_str())
    spec["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(spec))


TOKENIZERS = {
    "gpt-2": lambda: byte_level(1500, text=NUMBERS + TEXT),
    "llama-3": _threes,
    "gemma": lambda: sentencepiece_bpe(1200, text=NUMBERS + TEXT),
    "llama-2": _llama_2,
    "t5": lambda: unigram(1200, text=" ".join(str(i % 100) for i in range(3000)) + "\n" + TEXT),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_digits_apart_and_the_rest_as_before(kind):
    old = TOKENIZERS[kind]()
    new = Tokenizer.from_str(json.dumps(digitwise_spec(json.loads(old.to_str()))))
    before, after = Vocabulary.from_tokenizer(old), Vocabulary.from_tokenizer(new)
    assert old.get_vocab() == new.get_vocab()
    assert not is_digitwise(before) and len(digit_tokens(before)) >= 10
    assert is_digitwise(after) and not digit_tokens(after)
    for text in WORDS:
        assert before.encode(text) == after.encode(text), text
    for text in (*PROBES, *WORDS, "on 2024-11-22, 3.5 % of 1,234x7  12\n34", NUMBERS[:500]):
        ids = after.encode(text)
        assert after.decode(ids) == before.decode(before.encode(text))
        pieces = [after.keys[i].data for i in ids]
        digits = [piece for piece in pieces if any(48 <= byte < 58 for byte in piece)]
        assert digits == [bytes([byte]) for byte in text.encode() if 48 <= byte < 58]
    lost = np.flatnonzero(before.canonical & ~after.canonical)
    assert len(lost) and all(any(48 <= byte < 58 for byte in before.keys[i].data) for i in lost)
    assert not (after.canonical & ~before.canonical)[
        list(map(after.text_ids().get, map(str.encode, "0123456789")))
    ].any()


def test_spaces_before_a_number_stay_where_they_were():
    """A step before the donor's own would let `   12` end a run of spaces, and join all three."""
    old = _threes()
    new = Tokenizer.from_str(json.dumps(digitwise_spec(json.loads(old.to_str()))))
    for text in ("x   12", "x\n\n  12", "12   x"):
        kept = [t for t in new.encode(text).tokens if not t.isdigit()]
        assert kept == [t for t in old.encode(text).tokens if not t.isdigit()]
